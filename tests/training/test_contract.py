"""Right tasks pass and give right scores; wrong ones are refused before anything is trained, and the cause is named."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tda_backend as tda
from tda_backend.errors import TaskError, TDAError
from tda_backend.interfaces.cli.main import main
from tda_backend.models.checking.check import check_task
from tda_backend.models.checking.identity import identity_error, random_signs, refuse_wrong_identity
from tda_backend.models.checking.promises import BrokenPromise, slope_tolerance
from tda_backend.models.checking.verification import _block_rows, verify_before_training, verify_checkpoint
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows, validate_data
from tda_backend.models.tasks.registry import BUILT_IN, load_task
from tda_backend.models.training.fit import model_from
from tda_backend.models.training.run import reproducible
from tda_backend.studies.pipeline.context import checkpoint_name
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.types import Task
from tests.helpers_numerics import dense_gradients, influence_reference
from tests.training import contract_tasks
from tests.training.contract_tasks import RIGHT, Points, Smoothed, SmoothedUnclaimed, Weighted
from tests.training.ordinary_mistakes import MISTAKES

WRONG = {**contract_tasks.WRONG, **MISTAKES}
STUDY = """
name = "own"
task = "{task}"
seed = 3
[data]
train = 50
validation = 6
queries = 8
[training]
epochs = [2]
[ground_truth]
subsets = 0
[regularization]
count = 3
{methods}
"""
UNPROJECTED = '[methods.iffim]\nprojection_dim = ["none"]'


def whole_probe(task: Task, model: nn.Module | None = None) -> Probe:
    """Return a task with all rows of its data, at its untrained model unless another is given."""
    data = validate_data(task)
    half = num_rows(data["test"]) // 2
    rows = torch.arange(num_rows(data["train"])), torch.arange(half), torch.arange(half, num_rows(data["test"]))
    return Probe(task, built(task, 0) if model is None else model, data, *rows)


def run(folder: Path, kind: type, methods: str = UNPROJECTED) -> tuple[int, Workspace]:
    """Run a small study of a task of the table; returns exit code and workspace."""
    file = folder / "own.toml"
    file.write_text(STUDY.format(task=f"{inspect.getfile(kind)}:{kind.__name__}", methods=methods))
    db = folder / "catalogue.duckdb"
    return main(["run", str(file), "--db", str(db)]), Workspace.at(db)


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.filterwarnings("ignore:.*batching rule.*:UserWarning")
def test_right_tasks_pass(kind: type[Task]):
    assert [check for check in check_task(kind()) if not check.passed] == []
    probe = whole_probe(kind())
    verify_before_training(probe)
    verify_checkpoint(probe)


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_tasks_are_told_by_check(kind: type[Task]):
    name, words = WRONG[kind]
    found = {check.name: check.detail for check in check_task(kind()) if not check.passed}
    assert name in found
    assert re.search(words, found[name]), found[name]
    assert "\n" not in found[name]


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_tasks_are_refused_before_training(kind: type[Task], tmp_path: Path, capsys: pytest.CaptureFixture):
    _, words = WRONG[kind]
    code, workspace = run(tmp_path, kind)
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert re.search(words, error.replace("\nhint:", "")), error
    assert len([line for line in error.splitlines() if line]) == 2  # what is wrong, and the hint
    assert "unexpected" not in error
    store = ArtifactStore(workspace.artifacts)
    assert not [key for key in store.all_keys() if store.open(key).step != "study"]


def test_a_wrong_gradient_is_told_in_the_precision_that_runs():
    class HalfGradient(contract_tasks.ResNet):
        def train_loss(self, model, batch):
            loss = super().train_loss(model, batch)
            return loss.detach() + 0.5 * (loss - loss.detach())

    found = {check.name: check for check in check_task(HalfGradient())}
    assert not found["gradients"].passed
    assert "finite differences" in found["gradients"].detail
    assert "In float32" in found["gradients"].detail


@pytest.mark.parametrize(
    "kind",
    [
        contract_tasks.WeightedUnclaimed,
        SmoothedUnclaimed,
        contract_tasks.FocalUnclaimed,
        contract_tasks.LogProbabilityUnclaimed,
        contract_tasks.Points,
        contract_tasks.ResNet,
        contract_tasks.SparseBags,
        contract_tasks.HalfInputs,
        contract_tasks.TakesDict,
    ],
)
def test_right_tasks_get_the_scores_of_the_dense_formula(kind: Callable[[], Task], tmp_path: Path):
    code, workspace = run(tmp_path, kind)
    assert code == 0
    study = tda.open_study("own", db=workspace.catalogue)
    store, task = ArtifactStore(workspace.artifacts), kind()
    trained = next(each for each in map(store.open, store.all_keys()) if each.step == "train")
    model, data = model_from(task, trained.tensors(checkpoint_name(2))), task.datasets()
    if kind not in (contract_tasks.ResNet, contract_tasks.HalfInputs):  # whose own code is float32
        model = model.double()
        data = {s: {k: v.double() if v.is_floating_point() else v for k, v in b.items()} for s, b in data.items()}
    rows = {split: study.examples(split)["index"].tolist() for split in ("train", "queries")}
    loss = dense_gradients(task, model, data["train"], rows["train"], "train_loss").double()
    query = dense_gradients(task, model, data["test"], rows["queries"], "goodness").double()
    for regularization in (1e-3, 1e-1):
        expected = influence_reference(query, loss, regularization).numpy()
        found = study.scores("iffim", regularization)
        assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "words"),
    [(contract_tasks.WeightedUnclaimed, "output_loss"), (SmoothedUnclaimed, "output_loss"), (Points, "")],
)
def test_curvature_of_a_loss_that_nobody_trains_is_refused(kind, words, tmp_path: Path, capsys):
    """A subclass that overrides train_loss alone inherits the plain loss as output_loss."""
    methods = '[methods.ekfac]\n[methods.if-explicit]\ncurvature = ["ggn"]\nprojection_dim = ["none"]'
    if kind is contract_tasks.WeightedUnclaimed:
        methods = '[methods.ekfac]\n[methods.if-cg]\ncurvature = ["true-fisher"]'
    code, _ = run(tmp_path, kind, methods)
    text = "".join(capsys.readouterr())
    assert (code == 0) == (not words)
    if words:
        assert f"{words} of task 'points' is not its train_loss" in text
        assert text.count("FAILED") >= 2


def test_the_identity_is_proved_on_every_row_also_of_a_class_that_comes_last():
    class OneRow(Points):
        """One of 90 examples has another loss."""

        def train_loss(self, model, batch):
            odd = (batch["x"] == self.datasets()["train"]["x"][77].to(batch["x"])).all(1)
            loss = super().train_loss(model, batch)
            return torch.where(odd, 1.5 * loss, loss)

    with pytest.raises(TaskError, match=r"the cross-entropy of outputs|the loss weighs"):
        verify_before_training(whole_probe(OneRow()))


def test_an_identity_that_fails_only_after_training_is_refused_there(tmp_path: Path, capsys):
    code, workspace = run(tmp_path, contract_tasks.LateSmoothing)
    error = capsys.readouterr().err
    assert code == 1
    assert "margin_identity is claimed" in error
    store = ArtifactStore(workspace.artifacts)
    assert {store.open(key).step for key in store.all_keys()} == {"study", "examples"}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_stays_far_below_the_tolerance_however_well_examples_are_fitted(scale: float, dtype: torch.dtype):
    """The identity's error of right tasks, and of label smoothing by 0.01: apart by a factor of 3 and more."""
    generator, errors = np.random.default_rng(0), []
    for kind in (Points, Smoothed):
        task, data = kind(), kind().datasets()["train"]
        model = built(task, 0).to(dtype)
        with torch.no_grad():
            model[2].weight *= scale
        batch = {**data, "x": data["x"].to(dtype)}
        signs = random_signs(generator, num_rows(batch))
        errors.append(identity_error(task, model, batch, signs, slope_tolerance(dtype)))
    assert errors[0] < slope_tolerance(dtype) / 10
    assert errors[1] > 10 * slope_tolerance(dtype)


def test_what_a_run_uses_is_verified_whole_in_other_batches():
    with pytest.raises(TaskError, match="changes with its neighbours"):
        verify_before_training(whole_probe(contract_tasks.LateMixing()))


def test_verification_leaves_no_trace():
    task = contract_tasks.Normed()
    probe = whole_probe(task)
    probe.model.train()
    before = {name: value.clone() for name, value in probe.model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    verify_before_training(probe)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in probe.model.state_dict().items())
    assert all(module.training for module in probe.model.modules())


def test_a_sign_that_the_loss_shows_example_by_example_passes_though_the_mean_falls():
    """A rare class that counts a hundred times pulls the mean goodness down."""

    class Rare(Weighted):
        margin_identity = False

        def train_loss(self, model, batch):
            loss = Points.train_loss(self, model, batch)
            return torch.where(batch["y"] == 3, 100 * loss, loss) / 10

    check = next(each for each in check_task(Rare()) if each.name == "sign")
    assert check.passed, check.detail


def test_wrong_sign_is_told():
    class Backwards(Points):
        margin_identity = False
        measurement_sign = -1

    check = next(each for each in check_task(Backwards()) if each.name == "sign")
    assert not check.passed
    assert "should be +1" in check.detail


def test_errors_of_a_persons_code_stay_one_line():
    class Raising(Points):
        def measurement(self, model, batch):
            raise KeyError("a\nb")

    with pytest.raises(TDAError) as caught:
        verify_before_training(whole_probe(Raising()))
    assert "\n" not in str(caught.value)
    assert "measurement raises KeyError" in str(caught.value)


@pytest.mark.shipped_data
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_task_is_verified(name: str):
    probe = whole_probe(load_task(name))
    some = replace(probe, train=probe.rows("train")[:200], validation=probe.rows("validation")[:30], query=range(30))
    verify_before_training(some)


def test_a_wrong_loss_of_well_fitted_rows_does_not_hide_behind_the_others():
    """Half of the rows are fitted to 1 − p = 1e-3, and only their loss is wrong, by half."""

    class Hidden(Points):
        def train_loss(self, model, batch):
            loss = super().train_loss(model, batch)
            return torch.where(batch["x"].abs().sum(1) > 0, 1.5 * loss, loss)

    y = torch.arange(64) % 4
    x = 8.0 * torch.eye(4)[y] * (torch.arange(64) % 8 < 4)[:, None]
    model, delta = nn.Linear(4, 4), slope_tolerance(torch.float32)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4))
        model.bias.zero_()
    signs = random_signs(np.random.default_rng(0), 64)
    assert identity_error(Points(), model, {"x": x, "y": y}, signs, delta) < delta / 10
    assert identity_error(Hidden(), model, {"x": x, "y": y}, signs, delta) > 0.2


class TwoKinds(Points):
    """Rows of two kinds, in equal numbers: signs that are drawn alike cancel all of them."""

    def datasets(self):
        some = {"x": torch.eye(2, contract_tasks.WIDTH)[[0, 1, 0, 1]], "y": torch.tensor([0, 1, 0, 1])}
        return {"train": some, "test": some}


class TwoKindsSmoothed(TwoKinds):
    train_loss = Smoothed.train_loss


def test_rows_that_cancel_are_no_broken_promise_and_hide_none():
    """In every eighth draw of the signs both sums are rounding alone."""
    data, precision = TwoKinds().datasets()["train"], torch.float32
    for seed in range(60):
        generator = np.random.default_rng(seed)
        model = built(TwoKinds(), seed)
        assert refuse_wrong_identity(TwoKinds(), model, data, generator, precision) < slope_tolerance(precision)
    refused = 0
    for seed in range(60):
        model, generator = built(TwoKinds(), seed), np.random.default_rng(seed)
        try:
            refuse_wrong_identity(TwoKindsSmoothed(), model, data, generator, precision)
        except BrokenPromise:
            refused += 1
    assert refused >= 40


def test_a_module_s_choice_of_coarse_products_does_not_count():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with reproducible():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.get_num_threads() == 1
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("size", "rows"), [(1, 512), (2**20, 42)])
def test_rows_of_a_pass_follow_what_it_keeps_of_one(size: int, rows: int):
    """Three tensors of 2^20 numbers in float32 are 12 MiB a row, of 512 MiB."""

    class Wide(Points):
        def measurement(self, model, batch):
            wide = super().measurement(model, batch)[:, None].expand(-1, size) * 1.0
            return wide.sin().cos().exp().mean(1)

    found = _block_rows(whole_probe(Wide()))
    assert abs(found - rows) <= rows // 50
