"""``tda check``: does a task keep its contract? Each check says what was measured and, if it fails, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from tda_backend.errors import TaskError, TDAError
from tda_backend.models.checking import independence, slopes, values
from tda_backend.models.checking.building import Built, built_right, whole_in_its_state
from tda_backend.models.checking.elsewhere import same_elsewhere
from tda_backend.models.checking.goodness import sign
from tda_backend.models.checking.promises import MOST_ROWS, ROWS, BrokenPromise
from tda_backend.models.checking.verification import same_data
from tda_backend.models.tasks.contract import built, one_line
from tda_backend.models.tasks.data import num_rows, take, validate_data
from tda_backend.models.tasks.registry import BUILT_IN
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.checkpoints import load_checkpoints
from tda_backend.models.training.fit import model_from
from tda_backend.models.training.routes.optimum import OptimumTrainer
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.routes.stacked import why_not_stackable
from tda_backend.models.training.run import TrainingRun, reproducible
from tda_backend.types import Batch, Display, Task


@dataclass(frozen=True)
class Check:
    """One verdict on a task.

    Attributes:
        name: What was checked.
        passed: Whether the contract holds there.
        detail: One line with numbers; on failure also what to do.
    """

    name: str
    passed: bool
    detail: str


def check_task(task: Task, spec: str | None = None) -> list[Check]:
    """Return the verdicts on every promise of the :class:`Task` contract; what rests on a broken one is not tried.

    Works on a few examples, in seconds, with any model. Nothing of the task is changed.

    Args:
        task: The task.
        spec: What it was loaded by; ``None``: whether another process gets the same is not tried. Of a task of the
            program a release decides that.
    """
    checks: list[Check] = []

    def run(name: str, look: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, look()))
        except BrokenPromise as failure:
            checks.append(Check(name, False, str(failure)))
        except TDAError as error:
            hint = "" if "tda check" in error.hint else error.hint
            checks.append(Check(name, False, f"{error.message} {hint}".strip()))
        except Exception as error:  # a person's code may raise anything: that is the finding
            checks.append(Check(name, False, f"Raises {one_line(error)}"))
        return checks[-1].passed

    with reproducible():
        made: list[Built] = []
        if not run("data", lambda: _data(task)) or not run("model", lambda: _model(task, made)):
            return checks
        if spec is not None and spec not in BUILT_IN:
            run("another process", lambda: same_elsewhere(task, spec))
        train = validate_data(task)["train"]
        model = (_trained(task) or built(task, 0)).eval()
        batch = take(train, slice(0, ROWS))
        if not run("shapes", lambda: values.shapes(task, model, batch)):
            return checks
        rests = [
            run("finite", lambda: values.finite(task, model, take(train, slice(0, MOST_ROWS)))),
            run("determinism", lambda: independence.determinism(task, model, batch)),
        ]
        if rests[-1]:
            rests.append(run("state", lambda: whole_in_its_state(task, made[0].models, batch)))
            rests.append(run("per-example values", lambda: independence.per_example(task, model, train)))
        if all(rests):
            copy = slopes.exact_copy(task, model, batch)
            run("gradients", lambda: slopes.gradients(task, copy, batch))
            run("margin identity", lambda: slopes.margin_identity(task, copy, train))
            run("sign", lambda: sign(task, train))
            run("outputs", lambda: values.outputs(task, model, take(train, slice(0, MOST_ROWS))))
        run("prediction", lambda: values.prediction(task, model, batch))
        run("display", lambda: _display(task))
        if task.checkpoint_files:
            run("checkpoint files", lambda: f"{len(load_checkpoints(task))} files fit the model.")
        if task.training is not None:
            run("training route", lambda: _route(task, train))
    return checks


def _trained(task: Task) -> nn.Module | None:
    """Return the last shipped checkpoint's model, if there is a loadable one: checks then look at real gradients."""
    try:
        return model_from(task, load_checkpoints(task)[-1].state)
    except TaskError:
        return None


def _data(task: Task) -> str:
    data = validate_data(task)
    same_data(task)
    shapes = ", ".join(f"{key} {list(value.shape[1:])} {value.dtype}" for key, value in data["train"].items())
    rows = " + ".join(f"{num_rows(data[split])} {split}" for split in data)
    classes = "" if task.num_classes is None else f"; labels within 0…{task.num_classes - 1}"
    return f"{rows} examples of {shapes}; no NaN{classes}."


def _model(task: Task, made: list[Built]) -> str:
    made.append(built_right(task))
    return made[0].detail


def _display(task: Task) -> str:
    for split in ("train", "test"):
        shown = task.show(split, 0)
        if not isinstance(shown, Display):
            raise BrokenPromise(f'show("{split}", 0) returns a {type(shown).__name__}. Return a Display.')
        if shown.kind == "image":
            image = shown.image
            good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3)
            if not good or (image is not None and image.ndim == 3 and image.shape[2] != 3):
                found = "none" if image is None else f"{getattr(image, 'dtype', '?')} {np.shape(image)}"
                raise BrokenPromise(f'show("{split}", 0) has an image of {found}. Give uint8 [h, w] or [h, w, 3].')
        elif shown.kind == "text" and not shown.text:
            raise BrokenPromise(f'show("{split}", 0) is an empty text. Give the text of the example.')
        elif shown.kind == "row" and not shown.row:
            raise BrokenPromise(f'show("{split}", 0) is an empty row. Give the columns of the example.')
        elif shown.kind not in ("image", "text", "row"):
            raise BrokenPromise(f'show("{split}", 0) has the kind {shown.kind!r}. Use image, text or row.')
    return f"Examples are shown as {shown.kind}."


def _route(task: Task, train: Batch) -> str:
    settings = training_settings(task)
    if settings.finds_optimum:
        model = built(task, 0)
        run = TrainingRun(task, {"train": train}, np.arange(min(num_rows(train), ROWS)), 0)
        OptimumTrainer(run, model, settings)  # raises where the loss has no optimum
        return f"Trained to the optimum of loss + ½·{settings.weight_decay:g}·‖θ‖² by L-BFGS in float64."
    stages = f" In {len(task.stages)} stages." if task.stages else ""
    if mlp_architecture(task, built(task, 0), train) is not None:
        return f"Perceptron: trained by the hand-written loop, stacked on a GPU.{stages}"
    if not settings.is_plain_sgd:
        return f"Trained by autograd with {settings.optimizer_text}, one model per process on the CPU.{stages}"
    reason = why_not_stackable(task, settings, train, np.arange(min(num_rows(train), 16)))
    if reason is None:
        return f"Trained by autograd, one model per process on the CPU, stacked on a GPU.{stages}"
    return f"Trained by autograd, one model at a time (not stackable: {reason}).{stages}"
