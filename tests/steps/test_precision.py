"""A study whose gradients are passed in bfloat16: what it shares with one in float32, what it computes anew and says.

It is the study of every kind of step, so that a kind that passes gradients cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from tda_backend.errors import StudyError, UsageError
from tda_backend.interfaces.reading.remarks import remarks
from tda_backend.interfaces.reading.rounding import gradient_errors
from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.models.precision import BF16, FULL, refuse_precision
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.features import streaming
from tda_backend.numerics.features.rounding import MEASURED, rounding_error
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.executor import execute
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.rounding import GRADIENT_ERROR
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import check_study, read_study_file, resolve
from tests.steps.conftest import Everything, Silent
from tests.steps.one_of_each import write_study

IN_FLOAT32 = {
    "trajectory-influence": "it differentiates the training run itself",
    "lookahead": "it selects while it trains",
}
"""Kind → why its passes are in float32 whatever the study says; all others take the study's precision."""


@dataclass
class Passing(Silent):
    """Notes which step is computed, in which precisions it passes gradients, and what is remarked.

    Attributes:
        seen: Key of the step → precisions.
        remarked: Label of the step → sentences.
    """

    current: str = ""
    seen: dict[str, set[str]] = field(default_factory=dict)
    remarked: dict[str, list[str]] = field(default_factory=dict)

    def step_started(self, step: Step) -> None:
        self.current = step.key

    def step_remarked(self, step: Step, remark: str) -> None:
        self.remarked.setdefault(step.label, []).append(remark)

    @contextmanager
    def passing(self, precision: str, device: Any) -> Iterator[None]:
        """Take note of a pass instead of setting CUDA's products."""
        self.seen.setdefault(self.current, set()).add(precision)
        yield


@dataclass(frozen=True)
class Half:
    """The study of every kind in bfloat16, run once."""

    plan: Plan
    workspace: Workspace
    notes: Passing

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.workspace.artifacts)

    @property
    def study(self) -> Study:
        return open_study(self.plan.name, self.workspace)


def measures(step: Step) -> bool:
    """Return whether a step measures what its precision costs: those that read features leave it to them."""
    return getattr(step, "precision", None) is not None and not getattr(step, "features", ())


def planned(folder: Path, device: str = "cpu", **sections: Any) -> Plan:
    content = read_study_file(write_study(folder))
    content["methods"] |= sections.pop("methods", {})
    study = resolve(check_study({**content, **sections}))
    return build_plan(study, task_facts(load_task(study.task), study.task), device)


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Half:
    folder, notes = tmp_path_factory.mktemp("half"), Passing()
    plan = planned(folder, gradients={"precision": BF16}, methods=OTHERS)
    workspace = Workspace.at(folder / "workspace" / "catalogue.duckdb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "products_in", notes.passing)
        execute(plan, workspace, notes, KINDS)
    return Half(plan, workspace, notes)


OTHERS = {
    "tracin": {"epochs": [1, 3], "projection_dim": [8]},
    "if-arnoldi": {"num_iterations": [9], "num_eigenvalues": [5]},
    "if-cg-run": {"curvature": ["ggn"], "max_iter": [3]},
}
"""Methods beside those of every kind whose passes are their own."""


def test_a_study_in_float32_is_one_that_says_nothing_of_it(tmp_path: Path, everything: Everything):
    said, plain = planned(tmp_path, gradients={"precision": FULL}), planned(tmp_path, gradients={})
    assert said.study_id == plain.study_id == planned(tmp_path).study_id
    assert [step.key for step in said.steps] == [step.key for step in planned(tmp_path).steps]
    assert not any(getattr(step, "precision", None) for step in everything.plan.steps)


def test_it_shares_examples_and_all_that_is_trained_and_computes_the_rest_anew(tmp_path: Path, half: Half):
    plain = planned(tmp_path, methods=OTHERS)
    pairs = list(zip(plain.steps, half.plan.steps, strict=True))
    assert all(one.label == other.label for one, other in pairs)
    assert plain.study_id != half.plan.study_id
    changed = {one.NAME for one, other in pairs if one.key != other.key}
    shared = {one.NAME for one, other in pairs if one.key == other.key}
    assert {"examples", "train", "retrain", "downsample"} <= shared
    assert {"features", "spectrum", "curvature", "kronecker", "scores", "evaluate"} <= changed
    for one, other in pairs:  # nothing else than passes, or what is made of them
        inputs = any(a.key != b.key for a, b in zip(one.all_inputs(), other.all_inputs(), strict=True))
        assert (one.key != other.key) == (inputs or getattr(other, "precision", None) is not None), one.label


def test_every_kind_that_passes_gradients_has_the_precision_among_its_settings(half: Half):
    """What is passed in it is what the key says; what is not, is named here with its reason."""
    steps = {step.key: step for step in half.plan.steps}
    assert half.notes.seen
    for key, precisions in half.notes.seen.items():
        step = steps[key]
        if getattr(step, "precision", None) is None:
            assert precisions == {FULL}, step.label
            assert step.NAME in {"examples", "train"} | set(IN_FLOAT32), step.label
        else:
            assert precisions == {FULL, BF16}, step.label  # both: its error is measured, or its factors compared
            assert step.settings()["precision"] == BF16
    kinds = {steps[key].NAME for key in half.notes.seen}
    assert {"features", "curvature", "kronecker", "scores"} <= kinds
    for step in half.plan.steps:  # and none has it for nothing
        assert getattr(step, "precision", None) is None or step.key in half.notes.seen or step.NAME == "scores", step


def test_the_error_is_measured_stored_and_said_at_every_checkpoint(half: Half):
    context = RunContext.begin(half.plan.study, half.plan.facts, "cpu", half.store)
    measured = [step for step in half.plan.steps if measures(step)]
    assert {step.NAME for step in measured} == {"features", "curvature", "kronecker", "scores"}
    for step in measured:
        found: Any = step
        probe = context.probe(found, context.model(found.train, found.epoch))
        expected = rounding_error(probe, "goodness" if step.NAME == "features" else "train_loss")
        artifact = half.store.open(step.key)
        assert artifact.fact(GRADIENT_ERROR) == asdict(expected)
        assert 0 < expected.median < expected.worst < 0.2
        assert expected.num_examples == MEASURED
        assert half.notes.remarked[step.label] == artifact.remarks == [expected.text]
    others = [step for step in half.plan.steps if not measures(step)]
    assert all(half.store.open(step.key).fact(GRADIENT_ERROR) is None for step in others)


def test_the_study_says_what_the_precision_costs_and_one_in_float32_says_nothing(half: Half, everything: Everything):
    errors = gradient_errors(half.study)
    assert len(errors) == len([step for step in half.plan.steps if measures(step)])
    (said,) = [sentence for sentence in remarks(half.study) if "float32" in sentence]
    assert "Gradients are passed in bf16" in said
    assert f"{100 * max(each.worst for each in errors):.2g} % at worst" in said
    timings = half.study.timings()
    assert timings.loc[timings["step"] == "features", "remark"].str.startswith("gradients in bf16").all()
    plain = open_study(everything.plan.name, everything.workspace)
    assert not gradient_errors(plain)
    assert not any("float32" in sentence for sentence in remarks(plain))


def test_rankings_stay_and_training_stays_bit_by_bit(half: Half, everything: Everything):
    plain = open_study(everything.plan.name, everything.workspace)
    for method, parameters, value in (
        ("iffim", {"projection_dim": None}, 0.1),
        ("ekfac", {}, 0.1),
        ("gradient-similarity", {}, None),
    ):
        found, exact = (
            np.asarray(scores(study.source(study.configuration_id(method, **parameters)), value))
            for study in (half.study, plain)
        )
        agreement = [spearmanr(one, other).statistic for one, other in zip(found, exact, strict=True)]
        assert not np.array_equal(found, exact)
        assert np.median(agreement) > 0.99, (method, parameters, np.median(agreement))
    trained = [step for step in half.plan.steps if step.NAME in ("examples", "train", "retrain")]
    for step in trained:
        files = [{n: f.sha256 for n, f in each.store.open(step.key).files.items()} for each in (half, everything)]
        assert {n: v for n, v in files[0].items() if not n.endswith(".parquet")} == {
            n: v for n, v in files[1].items() if not n.endswith(".parquet")
        }


def test_a_plan_refuses_what_its_device_or_model_cannot(tmp_path: Path, half: Half):
    with pytest.raises(UsageError, match="'cpu'"):
        planned(tmp_path, gradients={"precision": "tf32"})
    with pytest.raises(UsageError, match="'mps'"):
        planned(tmp_path, "mps", gradients={"precision": BF16})
    wide = replace(half.plan.facts, number_bytes=8)
    with pytest.raises(UsageError, match="64 bits"):
        build_plan(half.plan.study, wide, "cpu")
    refuse_precision("tf32", "cuda", 4)  # a device that is not here: it is asked again where it is
    with pytest.raises(StudyError, match=r"gradients\.precision = 'half' is not allowed"):
        planned(tmp_path, gradients={"precision": "half"})


REFUSED = {
    "unrolled-influence": {},
    "if-explicit": {"curvature": ["hessian"], "projection_dim": ["none"]},
    "if-cg": {"curvature": ["ggn"], "projection_dim": ["none"], "max_iter": [3]},
    "if-lissa-run": {"curvature": ["hessian"]},
    "if-cg-run": {"curvature": ["hessian"]},
    "if-arnoldi": {"curvature": ["hessian"], "num_iterations": [9], "num_eigenvalues": [5]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_cannot_are_refused_by_name_with_what_to_do(name: str, tmp_path: Path):
    given: Any = {name: {"epochs": 3, **REFUSED[name]}}
    assert planned(tmp_path, methods=given).steps
    with pytest.raises(StudyError, match=f'gradients.precision = "bf16" is not for method {name}') as refused:
        planned(tmp_path, methods=given, gradients={"precision": BF16})
    assert "leave gradients.precision out" in str(refused.value.hint)
