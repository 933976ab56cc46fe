"""Runs a shipped study in its quick size and says what it cost."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.interfaces.reading.withdrawn import withdrawn
from tda_backend.studies.claims import KINDS

CPU_SECONDS = 90.0
"""45 seconds on two cores; processor time, so that what else the machine does decides nothing."""


@dataclass(frozen=True)
class QuickRun:
    """A finished quick study."""

    study: Study
    cpu_seconds: float
    seconds: float


def _used() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def run_quick(path: Path, db: Path) -> QuickRun:
    """Run ``tda run PATH --quick`` and return the study; fails with its exit code."""
    cpu, began = _used(), time.monotonic()
    code = main(["run", str(path), "--quick", "--db", str(db)])
    assert code == 0, f"tda run {path} --quick ended with {code}"
    return QuickRun(open_study(f"{path.stem}-quick", db), _used() - cpu, time.monotonic() - began)


def check(run: QuickRun) -> None:
    """Check what every quick study must have: all its configurations evaluated, a verdict on every claim, in time."""
    study = run.study
    configurations = study.configurations()
    assert len(configurations)
    sections = [name for name in ("trajectory", "lookahead") if name in study.config]
    if study.config["ground_truth"]["subsets"]:
        assert configurations["has_lds"].all()
    elif not sections:
        assert set(study.noisy_labels()["configuration_id"]) <= set(configurations["configuration_id"])
        assert len(study.noisy_labels())
    if "trajectory" in sections:
        assert len(study.trajectory_agreement())
        assert len(study.trajectory_paths(study.config["trajectory"]["learning_rates"][0], 0))
    if "lookahead" in sections:
        assert set(study.lookahead_tuned()["strategy"]) == set(study.config["lookahead"]["strategies"])
        assert len(study.lookahead_examples())
    ids = [claim["id"] for claim in study.config.get("claims", [])]
    verdicts = study.verdicts()
    assert list(verdicts["claim_id"]) == [each for each in ids if not withdrawn().is_dropped(study.name, each)]
    # With a dozen examples left out, too few are seen by the first steps to measure how an error grows.
    about_runs = [kind.NAME for kind in KINDS if kind.SECTION]
    judged = verdicts["verdict"].isin(("reproduced", "not reproduced"))
    few = verdicts["check_name"].isin(about_runs) & ~judged
    assert verdicts.loc[~few, "value"].notna().all()
    assert run.cpu_seconds < CPU_SECONDS, f"{run.cpu_seconds:.0f} s of processor time"
