"""Our methods against stored values of kronfluence 1.0.1, dattri 0.3.0 and traker 0.3.2, and against the dense truth.

No peer is needed: :mod:`tests.peers.recipe` made the values. Peers' scores are converted here, where they are compared:
kronfluence's ``[m, n]`` with a margin as measurement predicts its *rise* on removal (our negative); dattri's and
traker's are ``[n, m]``, positive helps. Stored values are float32, so agreement ends at about 1e-7.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.models.probe import Probe
from tda_backend.models.tasks import ClassificationTask
from tda_backend.numerics.attribution.conjugate_gradient import conjugate_gradient_scores
from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.attribution.explicit import explicit_spectrum
from tda_backend.numerics.attribution.influence import trak_spectrum
from tda_backend.numerics.attribution.logra import logra_spectrum
from tda_backend.numerics.attribution.logra_projections import LayerProjection
from tda_backend.numerics.attribution.tracin import tracin_scores
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.curvature.problem import ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.numerics.spectral.contraction import scores, self_influence
from tda_backend.types import Batch, Task
from tests.peers import truth
from tests.peers.cases import DAMPINGS, GOLDENS, VERSIONS, Case, load_case, load_golden, pooled_case
from tests.peers.recipe import (
    CG_ITERATIONS,
    EKFAC_DAMPING,
    EXPLICIT_REGULARIZATION,
    LOGRA_DAMPINGS,
    PART_BATCH,
    PROJECTION_DIM,
    REGULARIZATIONS,
    sampled_labels,
)

pytestmark = pytest.mark.shipped_data
ROUNDING = 2e-7
"""Relative to the largest score: what storing float32 leaves."""


class LossQueries(ClassificationTask):
    """A built-in task queried by its loss, as dattri's influence functions are: scores become ∇ℓ'ᵀC⁻¹∇ℓ."""

    measurement_sign = -1
    margin_identity = False

    def __init__(self, task: ClassificationTask) -> None:
        self.name, self._task = f"{task.name}-loss", task

    def datasets(self) -> dict[str, Any]:
        return self._task.datasets()

    def build_model(self, seed: int) -> torch.nn.Module:
        return self._task.build_model(seed)

    def measurement(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        return self.train_loss(model, batch)


@pytest.fixture(scope="module")
def case() -> Case:
    """The perceptron at its last checkpoint."""
    return load_case("mnist-mlp")


@pytest.fixture(scope="module")
def linear() -> Case:
    """Logistic regression with four checkpoints."""
    return load_case("mnist-lr")


@pytest.fixture(scope="module")
def kronfluence() -> dict[str, np.ndarray]:
    """Values of kronfluence."""
    return load_golden("kronfluence")


@pytest.fixture(scope="module")
def dattri() -> dict[str, np.ndarray]:
    """Values of dattri."""
    return load_golden("dattri")


@functools.lru_cache
def gradients(name: str, split: str, of: Any) -> Tensor:
    """Return the dense gradients of a case at its last checkpoint, ``[N, p]``."""
    case = load_case(name)
    return truth.gradients(case.model(), case.rows(split), of)


def losses_and_queries(case: Case) -> tuple[Tensor, Tensor]:
    """Return loss gradients of both splits."""
    return gradients(case.task.name, "train", truth.loss), gradients(case.task.name, "test", truth.loss)


def probe(case: Case, task: Task | None = None, epoch: int | None = None, batch_size: int = 512) -> Probe:
    """Return a case's probe at a checkpoint; two queries double as validation rows."""
    num, queries = len(case.data["train"]["y"]), len(case.data["test"]["y"])
    rows = (range(num), range(2), range(queries))
    return Probe(task or case.task, case.model(epoch), case.data, *rows, batch_size=batch_size)


def features(case: Case, epoch: int | None = None, task: ClassificationTask | None = None) -> CheckpointFeatures:
    """Return the features at a checkpoint in float64."""
    return checkpoint_features(probe(case, task, epoch))


def agree(ours: Any, theirs: Any, tolerance: float = ROUNDING) -> None:
    """Compare relative to the largest value, and by Pearson correlation for each query (row)."""
    left, right = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert left.shape == right.shape
    error = np.abs(left - right).max() / np.abs(right).max()
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance:g}"
    assert lowest_pearson(left, right) >= 0.999


def lowest_pearson(left: Any, right: Any) -> float:
    """Return the smallest correlation over rows."""
    pairs = zip(np.atleast_2d(np.asarray(left)), np.atleast_2d(np.asarray(right)), strict=True)
    return min(float(np.corrcoef(a, b)[0, 1]) for a, b in pairs)


def test_golden_files_are_small_pickle_free_and_of_the_pinned_versions():
    """At most 1 MB together; the versions stored are those of the extra ``peers``."""
    files = sorted(GOLDENS.glob("*.npz"))
    assert sum(file.stat().st_size for file in files) <= 10**6
    pinned = (GOLDENS.parents[2] / "pyproject.toml").read_text()
    for name, version in VERSIONS.items():
        assert str(load_golden(name)["version"]) == version
        assert f'"{name}=={version}"' in pinned
    for file in files:
        assert not any(value.dtype.hasobject for value in load_golden(file.stem).values())


class TestKronfluence:
    """EK-FAC, K-FAC and the diagonal. True Fisher: kronfluence was given our sampled labels, in both of its passes."""

    @pytest.mark.parametrize("damping", DAMPINGS)
    @pytest.mark.parametrize("fisher", ["true", "empirical"])
    def test_ekfac_pairwise_and_self_scores(self, case, kronfluence, fisher, damping):
        """−(our scores) = kronfluence's, to the precision stored; also at damping 1e-8, in kronfluence's own units."""
        self.compare(case, kronfluence, "ekfac", fisher, damping)

    @pytest.mark.parametrize("kind", ["kfac", "diagonal"])
    def test_cheaper_curvatures(self, case, kronfluence, kind):
        """K-FAC and the diagonal are kronfluence's strategies of these names."""
        self.compare(case, kronfluence, kind, "true", "1e-3")

    def compare(self, case: Case, golden: dict[str, np.ndarray], kind: Any, fisher: Any, damping: str) -> None:
        value = DAMPINGS[damping]
        labels = torch.from_numpy(golden["labels"].astype(np.int64))
        spectrum = ekfac_spectrum(
            probe(case),
            kind=kind,
            fisher=Fisher(fisher, targets=labels if fisher == "true" else None),
            damping="relative" if value is None else "absolute",
        )
        regularization = 0.1 if value is None else value
        agree(-scores([spectrum], regularization), golden[f"{kind}-{fisher}/pairwise/{damping}"])
        agree(self_influence([spectrum], [regularization])[0], golden[f"{kind}-{fisher}/self/{damping}"])

    @pytest.mark.parametrize("key", ["ekfac-true", "ekfac-empirical", "kfac-true", "diagonal-true"])
    def test_the_dense_truth_agrees(self, case, kronfluence, key):
        """kronfluence is right: explicit Kronecker products give its numbers."""
        strategy, fisher = key.split("-")
        labels = torch.from_numpy(kronfluence["labels"].astype(np.int64)) if fisher == "true" else case.rows("train")[1]
        model = case.model()
        product = truth.kronecker_truth(model, case.rows("train"), labels, strategy, 1e-3)
        losses, margins = losses_and_queries(case)[0], gradients(case.task.name, "test", truth.margin)
        agree(product(margins, losses), kronfluence[f"{key}/pairwise/1e-3"])

    def test_float32_costs_kronfluence_little_even_at_the_smallest_damping(self, kronfluence):
        """Its default precision at damping 1e-8: relative error 1.4e-3, Pearson above .9999."""
        ours, rounded = kronfluence["ekfac-true/pairwise/1e-8"], kronfluence["ekfac-true-float32/pairwise/1e-8"]
        assert 1e-5 < np.abs(ours - rounded).max() / np.abs(ours).max() < 1e-2
        assert lowest_pearson(ours, rounded) > 0.9999

    def test_labels_were_sampled_by_the_recipe(self, case, kronfluence):
        """The stored labels are a draw from the model's predictions, not the data's labels."""
        assert (kronfluence["labels"] != case.rows("train")[1].numpy()).any()
        assert (kronfluence["labels"] == sampled_labels(case).numpy()).mean() > 0.99


@pytest.fixture(scope="module")
def projected(case) -> Tensor:
    """Return all rows of the case's gradients under dattri's projection, ``[N, k]``, in our row order.

    dattri's BasicProjector fills ``[p, k]`` from one generator seeded 0 and divides by √k; it is made again here and
    compared with the rows that were stored.
    """
    model = case.model()
    num_parameters = sum(p.numel() for p in model.parameters())
    generator = torch.Generator().manual_seed(0)
    projection = torch.empty(num_parameters, PROJECTION_DIM, dtype=torch.float64).normal_(generator=generator)
    projection /= PROJECTION_DIM**0.5
    stored = load_golden("dattri")["trak/projection-rows"]
    if np.abs(projection[:3].numpy() - stored).max() > 1e-5:
        pytest.skip(f"torch {torch.__version__} draws other normal numbers than those of the goldens")
    margins = [gradients(case.task.name, split, truth.margin) for split in ("train", "test")]
    return torch.cat([margins[0], margins[1][:2], margins[1]]) @ projection


class TestTrak:
    """dattri and traker against ours: λ_dattri = nλ/p and λ_traker = nλk/p (gradients ÷√p; only dattri divides by √k).

    Both drop n: our scores are n times theirs.
    """

    @pytest.mark.parametrize("name", REGULARIZATIONS)
    def test_dattri(self, case, dattri, projected, name):
        """The same projection of our gradients gives dattri's scores at the λ in our units."""
        spectrum = trak_spectrum(features(case), projected=projected, dtype=torch.float64)
        num = len(case.data["train"]["y"])
        agree(scores([spectrum], REGULARIZATIONS[name]) / num, dattri[f"trak/{name}"].T)

    @pytest.mark.parametrize("name", REGULARIZATIONS)
    def test_traker_without_its_rescaling(self, case, name):
        """traker divides (XᵀX+λ)⁻¹ by its mean absolute entry, which differs for every λ: multiplied back, it agrees.

        traker computes in float32 throughout; its own projected gradients are given to our spectrum.
        """
        golden = load_golden("traker")
        num_parameters = sum(p.numel() for p in case.model().parameters())
        rows = torch.from_numpy(np.concatenate([golden["features"], golden["queries"][:2], golden["queries"]])).double()
        rows *= (num_parameters / PROJECTION_DIM) ** 0.5
        spectrum = trak_spectrum(features(case), projected=rows, dtype=torch.float64)
        num = len(case.data["train"]["y"])
        undone = golden[f"scores/{name}"] * golden[f"inverse_scale/{name}"]
        agree(scores([spectrum], REGULARIZATIONS[name]) / num, undone.T, 1e-4)

    def test_the_rescaling_erases_the_scale_of_the_regularization(self):
        """From λ = 0 to 1 the inverse shrinks, but traker's scores, as it gives them, do not follow."""
        golden = load_golden("traker")
        divisors = [float(golden[f"inverse_scale/{name}"]) for name in REGULARIZATIONS]
        given = [float(np.abs(golden[f"scores/{name}"]).mean()) for name in REGULARIZATIONS]
        undone = [a * b for a, b in zip(given, divisors, strict=True)]
        assert undone[0] > undone[1] > undone[2]
        assert given[2] > given[1] > given[0]


class TestTracIn:
    """dattri with ``attributor.projector_kwargs = None`` (0.3.0 projects to 512 even when told ``None``)."""

    def test_four_checkpoints_with_their_learning_rates(self, linear, dattri):
        """Σ_c η_c ∇ℓ'·∇ℓ; loss queries make the sign dattri's."""
        task = LossQueries(linear.task)
        taken = [features(linear, epoch, task) for epoch in linear.states]
        agree(tracin_scores(taken, linear.learning_rates).values, dattri["tracin/lr"].T)

    @pytest.mark.parametrize("normalization", [False, True])
    def test_hidden_layers_and_normalisation(self, case, dattri, normalization):
        """``normalized_grad`` divides both gradients by their norm, as our ``normalization`` does."""
        taken = [features(case, task=LossQueries(case.task))]
        golden = dattri["tracin/mlp-normalized" if normalization else "tracin/mlp"]
        agree(tracin_scores(taken, [1.0], normalization=normalization).values, golden.T)


class TestLogra:
    """dattri's LoGra with its own projections (1/√r inside); relative damping d·tr(C)/dim, as ours."""

    @pytest.mark.parametrize("damping", LOGRA_DAMPINGS)
    def test_dattri(self, case, dattri, damping):
        """Loss queries. dattri inverts in float32, with a condition number of about dim/d: hence the tolerance."""
        spectrum = self.spectrum(case, dattri)
        value = LOGRA_DAMPINGS[damping]
        agree(scores([spectrum], value), dattri[f"logra/{damping}"].T, 1e-4)

    def spectrum(self, case: Case, dattri: dict[str, np.ndarray], **settings: Any) -> Any:
        projections = {}
        for name in ("0", "3", "6"):
            sides = [torch.from_numpy(dattri[f"logra/projection/{name}/{side}"]).double().T for side in ("out", "in")]
            projections[name] = LayerProjection(*sides)
        task = LossQueries(case.task)
        return logra_spectrum(probe(case, task), projections=projections, **settings)


class TestIterativeAndExplicit:
    """Influence functions by conjugate gradients (perceptron) and explicit inverse (logistic regression), loss·loss."""

    def test_our_cg(self, case, linear, dattri):
        """dattri with one full batch: ten steps from x₀ = v on the Hessian of the mean loss; ours at any batch size."""
        agree(self.our_cg(linear, 1e-2, PART_BATCH), dattri["cg-lr/1e-2/batch-200"].T)
        for size in (PART_BATCH, 512):
            agree(self.our_cg(case, 1.0, size), dattri["cg/1/batch-200"].T)

    def test_ours_refuses_what_dattri_walks_across(self, case, dattri):
        """At λ = 1e-2, the published default, the perceptron's Hessian is negative along two queries' fifth direction.

        There the method minimises nothing; dattri does not look. Its numbers are those of the textbook recursion.
        """
        agree(self.truth_cg(case, case.rows("train"), 1e-2), dattri["cg/1e-2/batch-200"].T)
        with pytest.raises(NumericalError, match="negative curvature"):
            self.our_cg(case, 1e-2, 512)

    def test_dattri_sums_the_inverses_of_batches(self, case, linear, dattri):
        """Σ_b (H_b+λ)⁻¹v is not (H+λ)⁻¹v: with batches of 50 of 200, scores divided by four are still wrong.

        Largest difference as a multiple of the largest score, and lowest Pearson of a query: CG 22, −.76
        (perceptron, 1e-2), 7.5, .27 (logistic regression, 1e-2), .58, .956 (perceptron, 1); explicit .81, .92 (500
        parameters, 1e-2). Summed over batches, the dense truth gives dattri's numbers: this is what it computes.
        """
        small = pooled_case()
        cases = {"cg-lr/1e-2": linear, "explicit": small}
        for key, of_batch in (
            ("cg-lr/1e-2", lambda part: self.truth_cg(linear, part, 1e-2)),
            ("explicit", lambda part: self.truth_explicit(small, part)),
        ):
            parts = list(zip(*(x.split(PART_BATCH) for x in cases[key].rows("train")), strict=True))
            agree(sum(of_batch(part) for part in parts), dattri[f"{key}/batch-{PART_BATCH}"].T)
        for key, multiple, correlation in (
            ("cg/1", 0.5, 0.97),
            ("cg/1e-2", 10, 0.0),
            ("cg-lr/1e-2", 5, 0.5),
            ("explicit", 0.6, 0.95),
        ):
            mean, full = dattri[f"{key}/batch-{PART_BATCH}"].T / 4, dattri[f"{key}/batch-200"].T
            assert np.abs(mean - full).max() > multiple * np.abs(full).max()
            assert lowest_pearson(mean, full) < correlation

    def test_explicit(self, dattri):
        """dattri with one full batch, λ = 1e-2, and our eigendecomposition, at any batch size."""
        small = pooled_case()
        agree(self.truth_explicit(small, small.rows("train")), dattri["explicit/batch-200"].T)
        for size in (PART_BATCH, 512):
            own = probe(small, LossQueries(small.task), batch_size=size)
            spectrum = explicit_spectrum(own, Curvature("hessian"), dtype=torch.float64)
            agree(scores([spectrum], EXPLICIT_REGULARIZATION), dattri["explicit/batch-200"].T)

    def our_cg(self, case: Case, regularization: float, batch_size: int) -> Tensor:
        own = probe(case, LossQueries(case.task), batch_size=batch_size)
        problem = ambient_problem(own, Curvature("hessian"))
        return conjugate_gradient_scores(problem, regularization, max_iter=CG_ITERATIONS).values

    def truth_cg(self, case: Case, part: tuple[Tensor, Tensor], regularization: float) -> Tensor:
        model = case.model()
        losses, queries = losses_and_queries(case)
        product = truth.hessian_product(model, part)
        solved = truth.conjugate_gradient(product, queries, regularization, CG_ITERATIONS)
        return solved @ losses.T

    def truth_explicit(self, case: Case, part: tuple[Tensor, Tensor]) -> Tensor:
        model = case.model()
        losses, queries = (truth.gradients(model, case.rows(split), truth.loss) for split in ("train", "test"))
        damped = truth.hessian(model, part) + EXPLICIT_REGULARIZATION * torch.eye(losses.shape[1])
        return torch.linalg.solve(damped, queries.T).T @ losses.T


class TestDattriEkfac:
    """dattri 0.3.0's EK-FAC is no reference: two errors, each enough to spoil it.

    1. ``Q V Qᵀ`` where eigenvectors are columns and ``Qᵀ V Q`` is meant, in Λ and in the product: the result depends on
       the arbitrary signs of the eigenvectors.
    2. ``[vec W; b]`` is reshaped to ``(out, in + 1)``: from the second row on every weight lies in another's place.
    """

    def test_it_ranks_unlike_the_truth(self, case, dattri):
        """Spearman with the dense truth (and so with kronfluence and us) .15 to .46 by query, mean .27."""
        found = [spearman(a, b) for a, b in zip(self.emulated(case), dattri["ekfac"].T, strict=True)]
        right = [spearman(a, b) for a, b in zip(self.truth(case), dattri["ekfac"].T, strict=True)]
        assert np.mean(right) < 0.4
        assert max(right) < 0.6
        assert min(found) > 0.95

    def test_the_signs_of_eigenvectors_matter_to_it(self, case):
        """Flipping signs, which changes no basis, moves its scores by some percent and leaves the truth alone."""
        before, after = self.emulated(case), self.emulated(case, flip=True)
        assert np.abs(before - after).max() > 1e-3 * np.abs(before).max()
        agree(self.emulated(case, flip=True, wrong=False), self.truth(case), 1e-8)

    def truth(self, case: Case) -> np.ndarray:
        model, train = case.model(), case.rows("train")
        product = truth.kronecker_truth(model, train, train[1], "ekfac", EKFAC_DAMPING)
        losses, queries = losses_and_queries(case)
        return product(queries, losses).numpy()

    def emulated(self, case: Case, flip: bool = False, wrong: bool = True) -> np.ndarray:
        """Return EK-FAC as dattri writes it, or with both errors repaired, ``[m, n]``."""
        model, train = case.model(), case.rows("train")
        losses, queries = losses_and_queries(case)
        generator = torch.Generator().manual_seed(0)
        total, start = 0.0, 0
        for name, (inputs, deltas) in truth.kronecker_pairs(model, train).items():
            sides = []
            for rows in (inputs, deltas):
                basis = torch.linalg.eigh(rows.T @ rows / len(rows), UPLO="U").eigenvectors
                if flip:
                    basis = basis * (1 - 2 * torch.randint(0, 2, (len(basis),), generator=generator))
                sides.append(basis if wrong else basis.T)
            left, right = sides[1], sides[0]
            size = left.shape[0] * right.shape[0]
            if wrong:
                vectors = queries[:, start : start + size].unflatten(1, (len(left), len(right)))
                others = losses[:, start : start + size]
            else:
                vectors = truth.layer_gradients(model, queries)[name]
                others = truth.layer_gradients(model, losses)[name].flatten(1)
            start += size
            curvature = ((deltas @ left.T) ** 2).T @ ((inputs @ right.T) ** 2) / len(inputs)
            solved = left.T @ ((left @ vectors @ right.T) / (curvature + EKFAC_DAMPING)) @ right
            total = total + solved.flatten(1) @ others.T
        return np.asarray(total)


def test_the_margin_of_dattris_examples_saturates(case):
    """log p − log(1 − p) in float32: with logits four times as large, a third of the gradients are NaN, ours none.

    dattri then sets them to zero (``nan_to_num``): examples that are never found to matter. METHODS §0 has the form
    that does not overflow.
    """
    model = case.model(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter *= 4

    def theirs(logits: Tensor, labels: Tensor) -> Tensor:
        log_probability = -truth.loss(logits, labels)
        return log_probability - torch.log(1 - torch.exp(log_probability))

    rows = case.rows("train", torch.float32)
    lost = ~torch.isfinite(truth.gradients(model, rows, theirs)).all(1)
    assert 40 <= int(lost.sum()) <= 120  # 71 where this was written
    assert bool(torch.isfinite(truth.gradients(model, rows, truth.margin)).all())


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Return the rank correlation of two vectors without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])
