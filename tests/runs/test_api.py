"""The public interface: same numbers as a dense reference, clear refusals, JSON-ready records."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

import tda_backend as tda
from tda_backend.errors import UsageError
from tda_backend.interfaces.reading.study import Study
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace


@pytest.fixture(scope="module")
def study(computed: Workspace) -> Study:
    return tda.open_study("tiny", db=computed.catalogue)


@pytest.fixture(scope="module")
def gradients(study: Study) -> dict[str, torch.Tensor]:
    """Dense per-example gradients of goodness and loss at epoch 4, in float64."""
    task = load_task(study.info["task_spec"])
    data = task.datasets()
    store = ArtifactStore(study.workspace.artifacts)
    trained = next(a for a in map(store.open, store.all_keys()) if a.step == "train")
    model = task.build_model(0).double()
    parameters = {name: value.double() for name, value in trained.tensors("epoch-0004").items()}

    def dense(split: str, indices: np.ndarray, function) -> torch.Tensor:
        batch = {key: value[torch.from_numpy(indices)] for key, value in data[split].items()}
        batch["x"] = batch["x"].double()

        def single(p: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            def wrapped(rows):
                return functional_call(model, p, (rows,))

            return function(wrapped, {"x": x[None], "y": y[None]})[0]

        found = vmap(grad(single), in_dims=(None, 0, 0))(parameters, batch["x"], batch["y"])
        return torch.cat([value.flatten(1) for value in found.values()], dim=1)

    def position(split: str) -> np.ndarray:
        return study.examples(split)["index"].to_numpy(copy=True)

    return {
        "train": dense("train", position("train"), task.measurement),
        "loss": dense("train", position("train"), task.train_loss),
        "queries": dense("test", position("queries"), task.measurement),
    }


@pytest.mark.parametrize("regularization", [1e-4, 1e-1, 10.0])
def test_unprojected_influence_is_the_textbook_formula(study: Study, gradients: dict, regularization: float):
    loss, queries = gradients["loss"], gradients["queries"]
    fisher = loss.T @ loss / len(loss)
    inverse = torch.linalg.inv(fisher + regularization * torch.eye(len(fisher), dtype=torch.float64))
    expected = -(queries @ inverse @ loss.T)
    found = study.scores("iffim", regularization, training_epoch=4)
    assert found.shape == (10, 60)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-3, atol=2e-4 * float(expected.abs().max()))


def test_unprojected_trak_is_the_textbook_formula(study: Study, gradients: dict):
    margins, queries = gradients["train"], gradients["queries"]
    gram = margins.T @ margins / len(margins)
    inverse = torch.linalg.inv(gram + 0.1 * torch.eye(len(gram), dtype=torch.float64))
    weights = 1 - torch.sigmoid(torch.from_numpy(study.examples("train")["goodness"].to_numpy(copy=True)).double())
    expected = (queries @ inverse @ margins.T) * weights
    found = study.scores("trak", 0.1, training_epoch=4)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-3, atol=2e-4 * float(expected.abs().max()))


def test_one_query_equals_its_row(study: Study):
    whole = study.scores("trak", 1e-2, projection_dim=8, training_epoch=1)
    np.testing.assert_allclose(study.scores("trak", 1e-2, 8, 1, query=7), whole[7], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(study.scores("trak", 1e-2, 8, 1, query=[3, 7]), whole[[3, 7]], rtol=1e-4, atol=1e-4)


def test_masks_and_outputs_have_the_stated_shapes(study: Study):
    for alpha, size in ((0.5, 30), (0.25, 15)):
        masks, outputs = study.subset_masks(alpha=alpha), study.subset_outputs(alpha=alpha)
        assert masks.shape == (24, 60)
        assert masks.dtype == bool
        assert (masks.sum(1) == size).all()
        assert outputs.shape == (24, 10)
        assert np.isfinite(outputs).all()


def test_lds_recomputed_equals_the_stored_curve_and_spearman(study: Study):
    from scipy.stats import spearmanr

    configuration = study.configuration_id("iffim", 8, 4)
    stored = study.curve(configuration, 0.25)
    grid = stored.loc[~stored["is_selected"]]
    found = study.lds("iffim", grid["regularization"].tolist(), 8, 4, alpha=0.25)
    for name in ("mean", "ci_low", "ci_high"):
        np.testing.assert_allclose(found[name], grid[name], rtol=1e-6)
    value = float(grid["regularization"].iloc[3])
    sums = study.subset_masks(0.25) @ study.scores("iffim", value, 8, 4).T
    outputs = study.subset_outputs(0.25)
    expected = np.mean([spearmanr(sums[:, query], outputs[:, query]).statistic for query in range(10)])
    assert found["mean"].iloc[3] == pytest.approx(expected, abs=0.02)  # float32 ties may fall either way
    assert study.query_curve(configuration, 2, 0.25)["lds"].iloc[3] == pytest.approx(
        spearmanr(sums[:, 2], outputs[:, 2]).statistic, abs=0.05
    )


def test_selection_is_consistent_with_the_curves(study: Study):
    for record in [study.select("iffim", None, 4), study.select("trak", 8, 1, alpha=0.25)]:
        assert record["regret"] >= 0
        assert record["lds_best"] >= record["lds_selected"]
        assert set(record["quantiles"]) == {"0.1", "0.3", "0.5", "0.7", "0.9"}
        assert all(set(entry) == {"lambda", "lds", "regret"} for entry in record["quantiles"].values())
        json.dumps(record, allow_nan=False)
    found = study.indicator("iffim", [study.select("iffim", None, 4)["lambda_selected"]], None, 4)
    assert found["mean"].iloc[0] == pytest.approx(study.select("iffim", None, 4)["xi_at_selected"], abs=1e-9)
    assert found["q05"].iloc[0] <= found["q50"].iloc[0] <= found["q95"].iloc[0]
    rows = study.selections(0.5)
    assert not (rows["method"] == "tracin").any()


def test_top_examples_are_the_extremes_of_the_scores(study: Study):
    frame = study.top_examples("iffim", query=7, num=5, regularization=1e-2, training_epoch=4)
    scores = study.scores("iffim", 1e-2, training_epoch=4, query=7)
    assert frame["side"].tolist() == ["helpful"] * 5 + ["harmful"] * 5
    np.testing.assert_allclose(frame["score"][:5], np.sort(scores)[::-1][:5])
    np.testing.assert_allclose(frame["score"][5:], np.sort(scores)[:5])
    train = study.examples("train")
    assert frame["label"].tolist() == train["label"].to_numpy()[frame["position"]].tolist()


def test_examples_carry_what_a_page_needs(study: Study):
    for split, count in (("train", 60), ("validation", 12), ("queries", 10), ("test", 48)):
        frame = study.examples(split)
        assert frame["position"].tolist() == list(range(count))
        assert frame["label"].isin(["ant", "bee", "cat"]).all()
        assert frame["prediction"].isin(["ant", "bee", "cat"]).all()
        assert frame["payload"].map(lambda text: isinstance(text, str)).all()
        assert np.isfinite(frame["goodness"]).all()
        assert np.isfinite(frame["loss"]).all()
    assert not set(study.examples("validation")["index"]) & set(study.examples("queries")["index"])


@pytest.mark.parametrize(("method", "dim"), [("iffim", None), ("iffim", 8), ("trak", 8)])
def test_the_payload_lets_a_browser_rank_as_python_does(study: Study, method: str, dim: int | None):
    configuration = study.configuration_id(method, dim, 4)
    payload = study.explorer_payload(configuration, 3, num=5)
    assert payload.products.dtype == np.float32
    assert payload.filter_name == "damped_inverse"
    for value in (1e-6, 1e-2, 3.0):
        found = payload.products.astype(np.float64) @ (1 / (payload.eigenvalues.astype(np.float64) + value))
        scores = study.scores(method, value, dim, 4, query=3)
        np.testing.assert_allclose(found, scores[payload.positions], rtol=1e-3, atol=1e-4 * np.abs(scores).max())
        order = np.argsort(-scores)
        assert set(order[:5]) | set(order[-5:]) <= set(payload.positions)


def test_the_payload_respects_filters_and_methods_without_lambda(study: Study):
    configuration = study.configuration_id("tracin", normalization=True)
    train = study.examples("train")
    payload = study.explorer_payload(configuration, 0, num=50, classes=["bee"], correctness="right")
    chosen = train.iloc[payload.positions]
    assert (chosen["label"] == "bee").all()
    assert (chosen["prediction"] == "bee").all()
    assert payload.filter_name == "identity"
    scores = study.scores("tracin", normalization=True, query=0)
    np.testing.assert_allclose(payload.products[:, 0], scores[payload.positions], rtol=1e-6)
    assert study.explorer_payload(configuration, 0, classes=["no such class"]).positions == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda s: s.scores("iffim", 1e-3, query=10), "0 to 9"),
        (lambda s: s.scores("iffim", 1e-3, query=-1), "0 to 9"),
        (lambda s: s.scores("iffim"), "needs a regularization"),
        (lambda s: s.scores("tracin", 1e-3, normalization=False), "has no regularization"),
        (lambda s: s.scores("lissa", 1e-3), "iffim, trak, tracin"),
        (lambda s: s.scores("iffim", 1e-3, projection_dim=16), "k=8"),
        (lambda s: s.scores("iffim", 1e-3, training_epoch=3), "epoch 4"),
        (lambda s: s.scores("iffim", 1e-3, seeds=[4]), "Training seeds: 0"),
        (lambda s: s.subset_masks(alpha=0.9), "0.5, 0.25"),
        (lambda s: s.examples("trian"), "train, validation"),
        (lambda s: s.indicator("tracin", [1.0], normalization=False), "no regularization"),
        (lambda s: s.select("tracin", normalization=False), "no selected"),
        (lambda s: s.explorer_payload("nope", 0), "no results yet"),
        (lambda s: s.explorer_payload(s.configuration_id("iffim", 8), 99), "0 to 9"),
        (lambda s: s.explorer_payload(s.configuration_id("iffim", 8), 0, correctness="maybe"), "'right'"),
        (lambda s: s.top_examples("iffim", 0, num=0), "at least 1"),
        (lambda s: s.top_examples("iffim", 0, num="a"), "at least 1"),
        (lambda s: s.scores("iffim", 1e-3, seeds=4), "Training seeds: 0"),
        (lambda s: s.scores("iffim", 1e-3, seeds="a"), "Training seeds: 0"),
        (lambda s: s.scores("iffim", 1e-3, seeds=[]), "Training seeds: 0"),
        (lambda s: s.scores("iffim", "a"), "λ ≥ 0"),
        (lambda s: s.scores("iffim", ["a"]), "λ ≥ 0"),
        (lambda s: s.scores("iffim", 1e-3, query="a"), "0 to 9"),
        (lambda s: s.scores("iffim", 1e-3, query=1.7), "0 to 9"),
        (lambda s: s.scores("iffim", 1e-3, query=[0, 1.7]), "0 to 9"),
        (lambda s: s.lds("iffim", []), "at least one λ"),
        (lambda s: s.lds("iffim", ["a"]), "λ ≥ 0"),
        (lambda s: s.lds("iffim", 1e-3, alpha="a"), "0.5, 0.25"),
        (lambda s: s.lds("tracin", [1e-3], normalization=False), "has no regularization"),
        (lambda s: s.indicator("iffim", []), "at least one λ"),
        (lambda s: s.explorer_payload(s.configuration_id("iffim", 8), 0, regularizations=[]), "at least one λ"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(study: Study, call, expected: str):
    with pytest.raises(UsageError) as caught:
        call(study)
    assert expected in str(caught.value)


def test_one_training_seed_may_be_given_as_a_number(study: Study):
    whole = study.scores("iffim", 1e-2, 8, 4)
    np.testing.assert_array_equal(study.scores("iffim", 1e-2, 8, 4, seeds=0), whole)
    np.testing.assert_array_equal(study.scores("iffim", 1e-2, 8, 4, seeds=np.int64(0)), whole)
    assert len(study.lds("tracin", normalization=False)) == 1


def test_unknown_study_lists_the_known_ones(computed: Workspace):
    with pytest.raises(UsageError, match="tiny"):
        tda.open_study("mnist", db=computed.catalogue)


def test_a_study_opens_by_its_id_too(study: Study):
    assert tda.open_study(study.study_id, db=study.workspace.catalogue).name == "tiny"
    assert tda.open_study(study.study_id[:6], db=study.workspace.catalogue).name == "tiny"


def test_list_studies_tells_the_state(computed: Workspace):
    (row,) = tda.list_studies(computed.catalogue).to_dict("records")
    assert row["status"] == "complete"
    assert row["progress"] == 1.0
    assert row["num_configurations"] == 9
    assert row["best_lds_low"] <= row["best_lds"] <= row["best_lds_high"]


def test_importing_the_package_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, tda_backend; assert 'torch' not in sys.modules; assert callable(tda_backend.open_study)"
    subprocess.run([sys.executable, "-c", code], check=True)
