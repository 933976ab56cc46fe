"""Studies of many examples: no matrix of examples × examples unless asked, planned memory, and what fits instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tda_backend.errors import MachineError, UsageError
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.attribution.influence import influence_spectrum
from tda_backend.numerics.attribution.tracin import tracin_scores, tracin_self_influence
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, InnerProducts, checkpoint_features
from tda_backend.numerics.features.dense import BUDGET_NUMBERS
from tda_backend.numerics.features.factors import linear_layers, num_factor_numbers
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.studies.pipeline.backend import LocalBackend
from tda_backend.studies.pipeline.executor import execute, fitted
from tda_backend.studies.pipeline.facts import TaskFacts, task_facts
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.sizes import LEAST_SHARE, Sizes, doubles
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.features import Features
from tda_backend.studies.steps.spectrum import SpectrumStep
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import override, resolve
from tests.benchmarks.scale_tasks import write_study
from tests.helpers_numerics import FACTOR_TASKS, TASKS, assert_close, features_of, probe_of
from tests.runs.fake_plans import Notes

SPARSE = {"projection_dim": [16]}
EXACT = {"projection_dim": ["none"]}
BOTH = {"projection_dim": [16, "none"]}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TaskFacts]:
    """Facts of a perceptron, and of a CNN, of 300 examples."""
    folder = tmp_path_factory.mktemp("scale")
    write_study(folder, "cnn", 300, num_queries=12, num_validation=8)
    names = ("perceptron", "cnn")
    specs = {name: f"{folder / 'scale_task.py'}:{name}" for name in names}
    return {name: task_facts(load_task(spec), spec) for name, spec in specs.items()}


def content(facts: TaskFacts, kind: str = "sparse", num: int = 300, **methods: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "scale",
        "task": facts.spec,
        "data": {"train": num, "validation": 8, "queries": 12},
        "training": {"epochs": [1]},
        "ground_truth": {"subsets": 0},
        "projection": {"kind": kind},
        "methods": {name.replace("_", "-"): dict(settings) for name, settings in methods.items()},
    }


def planned(facts: TaskFacts, kind: str = "sparse", num: int = 300, **methods: Mapping[str, Any]) -> Plan:
    large = replace(facts, num_train=max(facts.num_train, num))
    return build_plan(resolve(content(facts, kind, num, **methods)), large)


def features_in(plan: Plan) -> list[Features]:
    return [step for step in plan.steps if isinstance(step, Features)]


@pytest.mark.parametrize(
    ("kind", "methods", "expected"),
    [
        ("sparse", {"iffim": SPARSE, "trak": SPARSE}, "none"),
        ("rademacher", {"iffim": SPARSE}, "none"),
        ("gaussian", {"iffim": SPARSE}, None),
        ("sparse", {"iffim": SPARSE, "trak": BOTH}, None),
        ("sparse", {"iffim": EXACT}, None),
        ("sparse", {"iffim": SPARSE, "tracin": SPARSE}, "none"),
        ("sparse", {"iffim": SPARSE, "tracin": {}}, "queries"),
        ("gaussian", {"iffim": SPARSE, "tracin": {}}, None),
        ("sparse", {"gradient_similarity": {}}, "queries"),
    ],
)
def test_a_gram_is_taken_where_a_configuration_asks(facts, kind: str, methods: dict, expected: str | None):
    (step,) = features_in(planned(facts["cnn"], kind, **methods))
    assert step.settings() == ({"epoch": 1} if expected is None else {"epoch": 1, "products": expected})
    (other,) = features_in(planned(facts["perceptron"], kind, **methods))
    assert other.settings() == {"epoch": 1}


def test_each_checkpoint_decides_for_itself(facts):
    asked = content(facts["cnn"], iffim={**BOTH, "epochs": [1, 2], "unprojected_epochs": [2]})
    asked["training"]["epochs"] = [1, 2]
    plan = build_plan(resolve(asked), replace(facts["cnn"], num_epochs=2))
    assert {step.epoch: step.products for step in features_in(plan)} == {1: "none", 2: None}


def computed(folder: Path, plan: Plan, backend: LocalBackend | None = None) -> tuple[ArtifactStore, Plan]:
    execute(plan, Workspace.at(folder / "c.duckdb"), Notes(), KINDS, backend)
    return ArtifactStore(Workspace.at(folder / "c.duckdb").artifacts), plan


def test_a_projection_needs_no_gram_and_gives_the_same(facts, tmp_path: Path):
    few = planned(facts["cnn"], iffim=SPARSE, tracin=SPARSE)
    store, plan = computed(tmp_path / "a", few)
    (step,) = features_in(plan)
    values = {"goodness", "train_loss", "margin_identity", "counts"}
    assert set(store.open(step.key).arrays()) == values
    similar = planned(facts["cnn"], tracin=SPARSE, gradient_similarity={"similarity": ["dot", "cosine"]})
    third, _ = computed(tmp_path / "c", similar)
    assert set(third.open(features_in(similar)[0].key).arrays()) == values | {"products", "squares"}
    other, whole = computed(tmp_path / "b", planned(facts["cnn"], iffim=BOTH, tracin=SPARSE))
    assert "gram" in other.open(features_in(whole)[0].key).arrays()

    def scored(store: ArtifactStore, plan: Plan) -> np.ndarray:
        steps = [step for step in plan.steps if isinstance(step, SpectrumStep) and step.draw.dim == 16]
        return scores(SpectrumStep.read(store, [step.key for step in steps]), 1e-3)

    assert np.array_equal(scored(store, plan), scored(other, whole))


def test_features_without_gram_say_so():
    task = TASKS["conv"]
    bare = checkpoint_features(probe_of(task, task.build_model(0)), products=InnerProducts.NONE)
    assert not CheckpointFeatures.from_arrays(bare.to_arrays()).has_gradients
    with pytest.raises(UsageError, match="inner products of all gradients"):
        bare.full_gram()


@pytest.mark.parametrize("normalization", [False, True])
@pytest.mark.parametrize("name", [name for name in TASKS if name not in FACTOR_TASKS])
def test_products_of_queries_are_those_of_the_gram(name: str, normalization: bool):
    probe = probe_of(TASKS[name], TASKS[name].build_model(0))
    whole, some = (checkpoint_features(probe, products=each) for each in (InnerProducts.ALL, InnerProducts.QUERIES))
    some = CheckpointFeatures.from_arrays(some.to_arrays()).to("cpu")
    assert some.gram is None
    expected, found = (tracin_scores([each], [1.0], normalization).values for each in (whole, some))
    assert_close(found, expected, 1e-12)
    expected, found = (tracin_self_influence([each], [1.0], normalization) for each in (whole, some))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv", "regression"])
@pytest.mark.parametrize("is_gram", [True, False], ids=["gram", "projected"])
def test_what_may_be_overwritten_gives_the_same(name: str, is_gram: bool):
    features = features_of(TASKS[name])
    gram, found = features.full_gram(), []
    for overwrite in (False, True):
        given = {"gram": gram.clone()} if is_gram else {"projected": gram[:, :9].contiguous()}
        found.append(influence_spectrum(features, **given, overwrite=overwrite, dtype=torch.float64))
        if is_gram:
            assert torch.equal(given["gram"], gram) is not overwrite
    for part in ("eigenvalues", "train", "query", "validation", "query_outside"):
        assert torch.equal(getattr(found[0], part), getattr(found[1], part))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_many_rows_make_no_square_matrix():
    num, dim = 6000, 32
    generator = torch.Generator().manual_seed(0)
    counts = {"train": num, "validation": 100, "query": 100}
    features = CheckpointFeatures(counts, torch.randn(num + 200), torch.rand(num), None, None, True)
    projected = torch.randn(num + 200, dim, generator=generator)
    held = peak_of(lambda: influence_spectrum(features, projected=projected))
    assert held < 24 * 2**20 < num**2  # not even a byte for each pair


def peak_of(run: Callable[[], object]) -> float:
    """Return by how many bytes this process grows at most meanwhile, as the system says."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


@pytest.mark.parametrize("task", ["perceptron", "cnn"])
def test_memory_of_a_projection_grows_with_n_and_not_its_square(facts, task: str):
    plans = [planned(facts[task], num=num, iffim=SPARSE, trak=SPARSE) for num in (10**5, 2 * 10**5, 4 * 10**5)]
    first, second, third = (plan.memory_gib() for plan in plans)
    assert third - second == pytest.approx(2 * (second - first), rel=0.05)
    assert third < doubles(4 * 10**5, 4 * 10**5) / 100


@pytest.mark.parametrize(("kind", "methods"), [("sparse", {"iffim": EXACT}), ("gaussian", {"trak": SPARSE})])
def test_memory_of_the_exact_answer_grows_with_the_square_of_n(facts, kind: str, methods: dict):
    plans = [planned(facts["perceptron"], kind, num, **methods) for num in (20_000, 40_000)]
    small, large = (plan.memory_gib() for plan in plans)
    assert large / small == pytest.approx(4, rel=0.05)
    assert 2 * doubles(40_000, 40_000) < large < 4 * doubles(40_000, 40_000)


def test_sizes_follow_layers_and_examples(facts):
    perceptron = facts["perceptron"]
    assert perceptron.factor_numbers == 784 + 1 + 128 + 128 + 1 + 64 + 64 + 1 + 10
    assert facts["cnn"].factor_numbers == 0
    assert facts["cnn"].layers == ((8, 26), (16, 201), (32, 257), (10, 33))
    assert perceptron.data_bytes == 320 * (784 * 4 + 8)
    study = resolve(content(perceptron, iffim=SPARSE))
    assert Sizes.of(study, perceptron).factors == pytest.approx(320 * perceptron.factor_numbers * 4 / 2**30)
    without = replace(perceptron, task=TASKS["regression"])
    assert Sizes.of(study, without).num_vectors == 620


def test_positions_are_seen_in_the_shape_of_inputs():
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2, bias=False))
    assert len(linear_layers(model)) == 2
    assert num_factor_numbers(model, {"x": torch.zeros(3, 6)}) == 11 + 6
    assert num_factor_numbers(model, {"x": torch.zeros(3, 5, 6)}) == 5 * 17
    assert num_factor_numbers(model, {"x": torch.zeros(3, 2, 3)}) == 17  # flattened


@pytest.mark.parametrize(
    ("kind", "methods", "num_offers"),
    [
        ("gaussian", {"iffim": SPARSE}, 2),
        ("sparse", {"iffim": BOTH}, 2),  # a projection to so few keeps all eigenvalues
        ("sparse", {"iffim": EXACT}, 3),
        ("gaussian", {"iffim": EXACT, "trak": BOTH}, 2),  # the draw takes the Gram matrix, whatever is kept
    ],
)
def test_a_refusal_names_what_really_fits(facts, kind: str, methods: dict, num_offers: int):
    plan, available = planned(facts["perceptron"], kind, 50_000, **methods), 6.0
    with pytest.raises(MachineError, match=r"needs about \d+\.\d GiB of memory; --memory 6 allows 6") as caught:
        fitted(plan, available)
    assert "spectrum" in caught.value.message
    offers = caught.value.hint.removeprefix("What fits: ").split(", or ")
    assert len(offers) == num_offers
    assert any("num_eigenvalues=" in offer for offer in offers) == (num_offers == 3)
    for offer in offers:
        settings = [word for word in offer.partition(" (")[0].split() if word != "--set"]
        changed = override(content(facts["perceptron"], kind, 50_000, **methods), settings)
        again = build_plan(resolve(changed), replace(facts["perceptron"], num_train=50_000))
        assert again.memory_gib(LEAST_SHARE) <= available
        assert fitted(again, available).memory_gib(LEAST_SHARE) == again.memory_gib(LEAST_SHARE)
    assert "data.train=" in offers[-1]
    most = int(offers[-1].partition("data.train=")[2].split()[0])
    more = planned(facts["perceptron"], kind, int(most * 1.15), **methods)
    assert more.memory_gib(LEAST_SHARE) > available


def test_what_never_fits_is_refused_without_advice_that_does_not_help(facts):
    with pytest.raises(MachineError) as caught:
        fitted(planned(facts["perceptron"], iffim=SPARSE), 0.1)
    assert "--set" not in caught.value.hint


class Seeing(LocalBackend):
    """This process, with the context looked at."""

    def close(self) -> None:
        assert self._context is not None
        self.budget = self._context.budget_numbers
        super().close()


def test_blocks_shrink_where_memory_is_short_and_results_stay(facts, tmp_path: Path):
    plan = planned(facts["cnn"], num=300, iffim=BOTH)
    wide = planned(facts["cnn"], num=1500, iffim=BOTH)  # whose Gram matrix is summed from blocks
    assert wide.memory_gib(LEAST_SHARE) < wide.memory_gib(0.25) < wide.memory_gib()
    assert fitted(wide, wide.memory_gib()).block_share == 1
    assert fitted(wide, wide.memory_gib(0.25)).block_share == 0.25
    stored = []
    for share in (1.0, LEAST_SHARE / 4096):  # so small that 300 examples make several blocks
        backend, folder = Seeing(), tmp_path / f"{share:g}"
        store = _with_share(plan, share, folder, backend)
        assert backend.budget == int(BUDGET_NUMBERS * share)
        steps = [step for step in plan.steps if isinstance(step, SpectrumStep)]
        stored.append([store.open(step.key).array("eigenvalues", mmap=False) for step in steps])
    for wide_blocks, small_blocks in zip(*stored, strict=True):
        np.testing.assert_allclose(small_blocks, wide_blocks, rtol=0, atol=1e-6 * wide_blocks.max())  # float32 passes


def _with_share(plan: Plan, share: float, folder: Path, backend: LocalBackend) -> ArtifactStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tda_backend.studies.pipeline.executor.BLOCK_SHARES", (share,))
        return computed(folder, plan, backend)[0]
