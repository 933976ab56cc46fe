"""A run's progress as a person sees it: bars in a terminal, lines in a log, and always the job file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from tda_backend.errors import TDAError
from tda_backend.runs.plan import Plan, Step
from tda_backend.runs.progress import JobFile

RATE_SECONDS = 0.5  # a rate is shown once a step has run this long
UNITS = {
    "train": "epochs",
    "train-half": "epochs",
    "retrain": "model-epochs",
    "downsample": "model-epochs",
    "counterfactual-base": "model-epochs",
    "removal": "model-epochs",
    "loo": "model-epochs",
    "examples": "examples",
}


def duration(seconds: float | None) -> str:
    """Return seconds as a person reads them: 0.4 s, 12 s, 3:05, 1:02:03."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(num_bytes: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} GiB"


class RunReport:
    """Draws a run's progress and keeps its job file; the executor's listener."""

    def __init__(self, console: Console, job: JobFile) -> None:
        self.console, self.job = console, job
        self._left: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._finished_weight = 0.0
        self._started = self._step_started = time.monotonic()
        self._num_done = 0
        self._bars: Progress | None = None
        self._whole: TaskID | None = None
        self._part: TaskID | None = None

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None:
        """Start drawing."""
        self._weights = {step.key: step.weight for step in plan.steps}
        self._left = {step.key: step.weight for step in plan.steps if not cached[step.key]}
        self.total = len(plan.steps)
        self.job.update(study=plan.name, study_id=plan.study_id, total=self.total)
        if self.console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
                TextColumn("{task.fields[detail]}"), console=self.console, transient=True,
            )  # fmt: skip
            self._whole = self._bars.add_task(plan.name, total=sum(self._weights.values()), detail="")
            self._part = self._bars.add_task("", total=1, detail="")
            self._bars.start()

    def step_started(self, step: Step) -> None:
        """Show which step runs."""
        self._step_started = time.monotonic()
        self.job.update(step=step.label, step_done=0, step_total=1, rate=0.0, **self._estimate(step, 0.0))
        if self._bars is not None and self._part is not None:
            self._bars.reset(self._part, description=step.label, total=1, detail="")
            self._draw_whole(step, 0.0)

    def step_progress(self, step: Step, done: int, total: int) -> None:
        """Show how far it is."""
        elapsed = time.monotonic() - self._step_started
        rate = done / elapsed if elapsed > RATE_SECONDS else 0.0
        share = done / max(1, total)
        self.job.update(step_done=done, step_total=total, rate=rate, **self._estimate(step, share))
        if self._bars is not None and self._part is not None:
            unit = UNITS.get(step.name, "")
            pace = f" · {rate:.3g}/s · {duration((total - done) / rate)} left" if rate else ""
            self._bars.update(self._part, completed=done, total=total, detail=f"{done}/{total} {unit}{pace}")
            self._draw_whole(step, share)

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
        """Count it."""
        self._num_done += 1
        if not cached:
            self._left.pop(step.key, None)
            self._finished_weight += step.weight
        self.job.update(done=self._num_done, **self._estimate(None, 0.0))
        if self._bars is None and not cached:
            left = self._estimate(None, 0.0)["eta_seconds"]
            tail = f", {duration(left)} left" if left else ""
            text = f"[{self._num_done:>{len(str(self.total))}}/{self.total}] {step.label}: {duration(seconds)}{tail}"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self._bars is not None:
            self._draw_whole(None, 0.0)

    def step_failed(self, step: Step, error: TDAError) -> None:
        """Say at once why a step could not be computed; the run goes on with the others."""
        self._left.pop(step.key, None)
        text = f"FAILED {step.label}: {error.message} {error.hint}".rstrip()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Stop drawing."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _estimate(self, step: Step | None, share: float) -> dict:
        """Return fraction done and seconds left, from the plan's rough weights scaled by what this machine showed."""
        inside = step.weight * share if step is not None else 0.0
        total, left = sum(self._weights.values()), sum(self._left.values()) - inside
        elapsed, worked = time.monotonic() - self._started, self._finished_weight + inside
        pace = elapsed / worked if worked > 0.02 * total else None
        return {"fraction": 1 - left / total if total else 1.0, "eta_seconds": left * pace if pace else None}

    def _draw_whole(self, step: Step | None, share: float) -> None:
        if self._bars is None or self._whole is None:
            return
        estimate = self._estimate(step, share)
        total = sum(self._weights.values())
        left = estimate["eta_seconds"]
        detail = f"{self._num_done}/{self.total} steps" + (f" · {duration(left)} left" if left else "")
        self._bars.update(self._whole, completed=estimate["fraction"] * total, detail=detail)
