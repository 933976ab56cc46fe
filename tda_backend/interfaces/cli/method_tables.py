"""The method table as Markdown, as ``docs/methods.md`` shows it: ``tda methods --markdown``."""

from __future__ import annotations

from collections.abc import Sequence

from tda_backend.studies.methods import METHODS

METHOD_COLUMNS = ("method", "title", "curve over λ", "score (positive helps)", "cost", "source")
SETTING_COLUMNS = ("method", "setting", "allowed", "default", "the papers' grid", "meaning")


def methods_markdown() -> str:
    """Return two Markdown tables: every method, and every setting of every method."""
    methods = [
        [f"`{spec.name}`", spec.title, spec.curve, f"`{spec.formula}`", spec.cost, spec.reference]
        for spec in METHODS.values()
    ]
    settings = [
        [
            f"`{spec.name}`",
            f"`{item.name}`",
            item.range,
            values_text(item.default),
            values_text(item.grid) or "–",
            item.meaning,
        ]
        for spec in METHODS.values()
        for item in spec.hyperparameters
    ]
    return "\n".join(
        [
            *_table(METHOD_COLUMNS, methods),
            "",
            *_table(SETTING_COLUMNS, settings),
            "",
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def values_text(values: object) -> str:
    """Return one value or several as a study file writes them; the empty text for none of several."""
    if values is None:
        return "all saved"
    several = values if isinstance(values, tuple) else (values,)
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in several)
