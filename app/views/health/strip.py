"""A strip of training examples, with what is known of wrong labels; one is picked from it."""

from __future__ import annotations

from collections.abc import Sequence

from app import session
from app.session import Context
from app.shared.gallery import show_training_strip
from app.views.health import data
from tda_backend.interfaces.reading.records.examples import Example

SHOWN = 200


def show_strip(context: Context, rows: Sequence[Example], notes: Sequence[str], key: str) -> None:
    """Draw training examples; the one that is picked opens.

    Args:
        context: What the page works with.
        rows: In order.
        notes: One line for each, e.g. its self-influence.
        key: Of the strip.
    """
    wrong = data.known_labels(context)
    show_training_strip(
        context.opened,
        rows,
        [f"({wrong[row.position]})" if row.position in wrong else "" for row in rows],
        notes,
        context.view.train,
        f"strip-{key}",
        lambda position: session.update(train=position),
    )
