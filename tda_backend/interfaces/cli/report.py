"""A run's progress as a person sees it: bars in a terminal, lines in a log, and always the job file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.status import Status

from tda_backend.errors import TDAError
from tda_backend.interfaces.cli.printing import duration, print_line
from tda_backend.studies.jobs.progress import JobFile
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import provisional_key
from tda_backend.studies.store.locks import Planning

VERIFYING = "verifying stored results"
RATE_SECONDS = 0.5  # a rate is shown once a step has run this long


@dataclass(frozen=True)
class Estimate:
    """How far a run is.

    Attributes:
        fraction: Share of its work that is done.
        eta_seconds: Seconds left; ``None``: not known yet.
    """

    fraction: float
    eta_seconds: float | None


@dataclass
class _Bars:
    """The bars of a terminal: one for the whole run, one for the step that was heard of last."""

    drawing: Progress
    whole: TaskID
    part: TaskID

    @classmethod
    def of(cls, console: Console, name: str, total: float) -> _Bars:
        drawing = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        bars = cls(drawing, drawing.add_task(name, total=total, detail=""), drawing.add_task("", total=1, detail=""))
        drawing.start()
        return bars


class RunReport:
    """Draws a run's progress and keeps its job file; the executor's listener.

    Where several steps are computed at once, that one is shown that was heard of last.

    Args:
        console: Where it is drawn.
        job: Kept up to date.
        planning: Held until the run's record is stored, which says what the run needs.
    """

    def __init__(self, console: Console, job: JobFile, planning: Planning | None = None) -> None:
        self.console, self.job = console, job
        self._planning = planning
        self._left: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._shown = ""
        self._finished_seconds = 0.0
        self._started = time.monotonic()
        self._num_done = 0
        self._bars: _Bars | None = None
        self._looking: Status | None = None

    def planned(self, plan: Plan) -> None:
        """Let removals begin again: the run's record and its job file say what it needs."""
        self.job.update(study=plan.name, study_id=plan.study_id, total=len(plan.steps), step=VERIFYING)
        if self._planning is not None:
            self.job.write()
            self._planning.close()
        if self.console.is_terminal:
            self._looking = self.console.status(VERIFYING)
            self._looking.start()

    def looked_at(self, done: int, total: int) -> None:
        """Show how many stored results are verified."""
        self.job.update(step_done=done, step_total=total)
        if self._looking is not None:
            self._looking.update(f"{VERIFYING}: {done}/{total}")

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.stop()
            self._looking = None

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None:
        """Start drawing; of a study that retrains in rounds, once a round."""
        self.end()
        self._num_done = 0
        self._costs = {step.key: step.cost.seconds for step in plan.steps}
        self._left = {step.key: step.cost.seconds for step in plan.steps if not cached[step.key]}
        self.total = len(plan.steps)
        self.job.update(study=plan.name, study_id=plan.study_id, total=self.total, step_done=0, step_total=0)
        if self.console.is_terminal:
            self._bars = _Bars.of(self.console, plan.name, sum(self._costs.values()))

    def step_started(self, step: Step) -> None:
        """Show which step runs."""
        self._begun[step.key] = time.monotonic()
        self._shares[step.key] = 0.0
        self._show(step)

    def _show(self, step: Step) -> None:
        self._shown = step.key
        estimate = self._estimate()
        self.job.update(step=step.label, step_done=0, step_total=1, rate=0.0, **asdict(estimate))
        if self._bars is not None:
            self._bars.drawing.reset(self._bars.part, description=step.label, total=1, detail="")
            self._draw_whole(estimate)

    def step_progress(self, step: Step, done: int, total: int) -> None:
        """Show how far it is."""
        self._shares[step.key] = step.cost.seconds * done / max(1, total)
        if self._shown != step.key:
            self._show(step)
        elapsed = time.monotonic() - self._begun[step.key]
        rate = done / elapsed if elapsed > RATE_SECONDS else 0.0
        estimate = self._estimate()
        self.job.update(step_done=done, step_total=total, rate=rate, **asdict(estimate))
        if self._bars is not None:
            pace = f" · {rate:.3g}/s · {duration((total - done) / rate)} left" if rate else ""
            detail = f"{done}/{total} {step.UNIT}{pace}"
            self._bars.drawing.update(self._bars.part, completed=done, total=total, detail=detail)
            self._draw_whole(estimate)

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
        """Count it."""
        self._num_done += 1
        if not cached:
            self._forget(step)
            self._finished_seconds += step.cost.seconds
        estimate = self._estimate()
        self.job.update(done=self._num_done, **asdict(estimate))
        if self._bars is None and not cached:
            left = estimate.eta_seconds
            tail = f", {duration(left)} left" if left else ""
            text = f"[{self._num_done:>{len(str(self.total))}}/{self.total}] {step.label}: {duration(seconds)}{tail}"
            print_line(self.console, text)
        elif self._bars is not None:
            self._draw_whole(estimate)

    def step_remarked(self, step: Step, remark: str) -> None:
        """Say it below the line of the step."""
        print_line(self.console, f"{step.label}: {remark}")

    def found(self, sentence: str) -> None:
        """Say what the run has found so far, here and on pages."""
        print_line(self.console, sentence)
        self.job.update(message=sentence)

    def step_failed(self, step: Step, error: TDAError) -> None:
        """Say at once why a step could not be computed; the run goes on with the others."""
        self._forget(step)
        text = f"FAILED {step.label}: {error.message} {error.hint}".rstrip()
        print_line(self.console, text)

    def _forget(self, step: Step) -> None:
        for key in (step.key, provisional_key(step.key)):  # the latter: computed without some inputs
            self._left.pop(key, None)
            self._shares.pop(key, None)

    def end(self) -> None:
        """Stop drawing."""
        self._stop_looking()
        if self._bars is not None:
            self._bars.drawing.stop()
            self._bars = None

    def _estimate(self) -> Estimate:
        """Return how far the run is, from the plan's rough costs scaled by what this machine showed."""
        inside = sum(self._shares.values())
        total, left = sum(self._costs.values()), sum(self._left.values()) - inside
        elapsed, worked = time.monotonic() - self._started, self._finished_seconds + inside
        pace = elapsed / worked if worked > 0.02 * total else None
        return Estimate(1 - left / total if total else 1.0, left * pace if pace else None)

    def _draw_whole(self, estimate: Estimate) -> None:
        if self._bars is None:
            return
        left = estimate.eta_seconds
        detail = f"{self._num_done}/{self.total} steps" + (f" · {duration(left)} left" if left else "")
        completed = estimate.fraction * sum(self._costs.values())
        self._bars.drawing.update(self._bars.whole, completed=completed, detail=detail)
