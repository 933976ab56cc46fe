"""LoGra against dense float64 references with explicit projection matrices, and its limits as theorems."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.attribution.logra import logra_spectrum
from tda_backend.numerics.attribution.logra_projections import (
    LayerProjection,
    loss_batches,
    pca_projections,
    random_projections,
)
from tda_backend.numerics.features.layers import layer_batches, tracked_layers
from tda_backend.numerics.spectral.contraction import block_scores, scores, self_influence, subset_sums
from tests.helpers_numerics import (
    QUERIES,
    TASKS,
    VALIDATION,
    ClassificationExample,
    assert_close,
    dense_gradients,
    influence_reference,
    probe_of,
    split_probe,
)

TRAIN = range(24)
GRID = [0.0, 1e-4, 0.1, 10.0]
RANKS = {"linear": 2, "mlp": 2, "positions": 3, "regression": 2, "conv": 2, "cnn": 2, "transformer": 3}
POLICY = {"untracked": "leave-out"}  # norms and embeddings of some of the tasks


def spectrum_of(name: str, **settings):
    return logra_spectrum(probe_of(TASKS[name]), **(POLICY | {"rank": RANKS[name]} | settings))


def layer_gradients(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return whole gradients of every tracked layer by autograd, one example at a time: (train loss, query)."""
    task = TASKS[name]
    model, data = task.build_model(0), task.datasets()
    dense = [
        dense_gradients(task, model, data["train"], TRAIN, "train_loss"),
        dense_gradients(task, model, data["test"], QUERIES, "goodness"),
    ]
    sizes = [p.numel() for p in model.parameters()]
    result = {}
    for layer in tracked_layers(model, "leave-out"):
        groups = []
        for rows in dense:
            matrices = []
            for row in rows:
                named = {
                    key: value.view_as(p)
                    for (key, p), value in zip(model.named_parameters(), row.split(sizes), strict=True)
                }
                matrices.append(layer.matrix(named).flatten())
            groups.append(torch.stack(matrices))
        result[layer.name] = (groups[0], groups[1])
    return result


def reference(name: str, projections: dict[str, LayerProjection], value: float, relative: bool) -> dict[str, Tensor]:
    """Return −φ̃'ᵀ(C+λI)⁻¹g̃ of every layer with P = P_o ⊗ P_i written out, ``[m, n]`` each."""
    result = {}
    for layer, (loss, query) in layer_gradients(name).items():
        matrix = torch.kron(projections[layer].output, projections[layer].input)
        train, other = loss @ matrix.T, query @ matrix.T
        moment = train.T @ train / len(train)
        damping = value * float(moment.trace()) / len(moment) if relative else value
        result[layer] = influence_reference(other, train, damping)
    return result


def given(name: str, initialization: str) -> dict[str, LayerProjection]:
    task = TASKS[name]
    model = task.build_model(0)
    if initialization == "random":
        return random_projections(tracked_layers(model, "leave-out"), RANKS[name], 0)
    return pca_projections(
        split_probe(task, model, task.datasets()["train"], TRAIN), RANKS[name], untracked="leave-out"
    )


@pytest.mark.parametrize("damping", ["relative", "absolute"])
@pytest.mark.parametrize("initialization", ["random", "pca"])
@pytest.mark.parametrize("name", TASKS)
def test_scores_equal_the_dense_reference(name, initialization, damping):
    spectrum = spectrum_of(name, initialization=initialization, damping=damping)
    assert spectrum.dtype == torch.float64
    for value in GRID:
        expected = reference(name, given(name, initialization), value, damping == "relative")
        # λ = 0 and 1e-4 divide by small eigenvalues: the reference's own condition number.
        tolerance = 1e-7 if value == 0 else 1e-9
        assert_close(scores([spectrum], value), sum(expected.values()), tolerance)
        actual = block_scores([spectrum], value)
        assert list(actual) == list(expected)
        for layer in expected:
            assert_close(actual[layer], expected[layer], tolerance)


@pytest.mark.parametrize("name", ["mlp", "positions"])
def test_primal_and_dual_blocks_agree_with_the_reference(name):
    """24 train examples: rank 2 gives primal 4 × 4 blocks, rank 64 dual ones; both routes in one spectrum at rank 3."""
    for rank in (1, 3, 64):
        task = TASKS[name]
        projections = random_projections(tracked_layers(task.build_model(0)), rank, 0)
        expected = sum(reference(name, projections, 0.1, True).values())
        assert_close(scores([spectrum_of(name, rank=rank)], 0.1), expected, 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_relative_damping_is_the_absolute_one_at_each_layers_scale(name):
    relative, absolute = (spectrum_of(name, damping=damping) for damping in ("relative", "absolute"))
    assert {block.scale for block in absolute.blocks} == {1.0}
    for block in relative.blocks:
        at = block_scores([absolute], 0.1 * block.scale)[block.name]
        assert_close(block_scores([relative], 0.1)[block.name], at, 1e-10)
    for block, other in zip(relative.blocks, absolute.blocks, strict=True):
        assert (block.name, block.size) == (other.name, other.size)
    # s = tr(C)/dim: the stored eigenvalues have mean 1 over the block's dimension.
    start = 0
    for block in relative.blocks:
        dim = given(name, "random")[block.name].dim
        assert abs(float(relative.eigenvalues[start : start + block.size].sum()) / dim - 1) < 1e-10
        start += block.size


def test_large_damping_leaves_the_projected_dot_product():
    spectrum = spectrum_of("mlp", damping="absolute")
    expected = 0
    for layer, (loss, query) in layer_gradients("mlp").items():
        matrix = torch.kron(given("mlp", "random")[layer].output, given("mlp", "random")[layer].input)
        expected = expected - query @ matrix.T @ (loss @ matrix.T).T
    assert_close(scores([spectrum], 1e9) * 1e9, expected, 1e-7)


@pytest.mark.parametrize("name", ["mlp", "positions", "cnn", "transformer"])
def test_rank_at_least_the_widths_is_the_unprojected_influence_of_each_layer(name):
    """At any λ through the identity; as λ → 0 through any invertible projection, orthogonal or not."""
    whole = layer_gradients(name)
    exact = spectrum_of(name, rank=64, damping="absolute")
    for value in (1e-3, 0.1):
        for layer, (loss, query) in whole.items():
            expected = influence_reference(query, loss, value)
            assert_close(block_scores([exact], value)[layer], expected, 1e-9)
    generator = torch.Generator().manual_seed(0)
    for orthogonal in (True, False):
        turned = {}
        for layer, projection in random_projections(
            tracked_layers(TASKS[name].build_model(0), "leave-out"), 64, 0
        ).items():
            sides = []
            for size in (len(projection.output), len(projection.input)):
                matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
                basis = torch.linalg.qr(matrix).Q
                sides.append(basis if orthogonal else basis @ torch.diag(torch.linspace(0.5, 2, size).double()))
            turned[layer] = LayerProjection(*sides)
        spectrum = spectrum_of(name, projections=turned, damping="absolute")
        if orthogonal:
            for value in (1e-6, 0.1):
                assert_close(scores([spectrum], value), scores([exact], value), 1e-7)
        # Queries lie partly outside the range of a singular C, where the pseudo-inverse (λ → 0) depends on the
        # basis; on the train examples themselves it is n·(the projector on their span) for any invertible P.
        for part, other in zip(spectrum.parts(), exact.parts(), strict=True):
            leverage = [s.rows("train") / s.eigenvalues @ s.rows("train").T for s in (part, other)]
            assert_close(leverage[0], leverage[1], 1e-4)  # attention has eigenvalues of 1e-13·σ_max, near the cutoff


def test_the_pseudo_inverse_cuts_each_block_by_its_own_largest_eigenvalue():
    """A layer whose gradients are 1e-9 times another's: below the global cutoff, but all there is of its block."""

    class TwoScales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * self.large(x) + 1e-5 * self.small(x)

    task = ClassificationExample("two scales", TwoScales)
    model = task.build_model(0)
    with torch.no_grad():
        for parameter in model.large.parameters():
            parameter *= 1e-4
    spectrum = logra_spectrum(probe_of(task, model), rank=2, damping="absolute")
    by_layer = block_scores([spectrum], 0.0)
    # Both layers see the same inputs, so at λ = 0 their influence is the same up to the draw: 1e4 and 1e-5 cancel.
    assert np.abs(by_layer["small"]).max() > 0.05 * np.abs(by_layer["large"]).max()
    truth = random_projections(tracked_layers(model), 2, 0)
    dense = dense_gradients(task, model, task.datasets()["train"], TRAIN, "train_loss")
    query = dense_gradients(task, model, task.datasets()["test"], QUERIES, "goodness")
    for index, name in enumerate(("large", "small")):
        columns = slice(21 * index, 21 * index + 21)
        own = [group[:, columns] for group in (dense, query)]
        sides = [torch.cat([m[:, :18].view(-1, 3, 6), m[:, 18:, None]], 2) for m in own]
        rows = [torch.einsum("ro,noi,si->nrs", truth[name].output, m, truth[name].input).flatten(1) for m in sides]
        assert_close(by_layer[name], influence_reference(rows[1], rows[0], 0.0), 1e-7)


def test_subset_sums_and_self_influence_follow_the_scores():
    spectrum = spectrum_of("mlp")
    masks = np.random.default_rng(0).random((5, 24)) < 0.5
    whole = scores([spectrum], 0.1)
    assert_close(subset_sums([spectrum], masks, [0.1])[0], masks @ whole.T, 1e-10)
    own = self_influence([spectrum], [0.1])[0]
    assert bool((own > 0).all())
    loss = {layer: (train, train) for layer, (train, _) in layer_gradients("mlp").items()}
    expected = torch.zeros(24, dtype=torch.float64)
    for layer, (train, _) in loss.items():
        matrix = torch.kron(given("mlp", "random")[layer].output, given("mlp", "random")[layer].input)
        rows = train @ matrix.T
        moment = rows.T @ rows / 24
        damping = 0.1 * float(moment.trace()) / len(moment)
        expected += -influence_reference(rows, rows, damping).diagonal()
    assert_close(own, expected, 1e-9)


@pytest.mark.parametrize("initialization", ["random", "pca"])
@pytest.mark.parametrize("name", ["positions", "cnn", "transformer"])
def test_nothing_depends_on_batch_size_or_order(name, initialization):
    task = TASKS[name]
    settings = POLICY | {"rank": 2, "initialization": initialization}
    model = task.build_model(0)
    whole = scores([logra_spectrum(probe_of(task, model), **settings)], 0.1)
    small = logra_spectrum(probe_of(task, model, batch_size=5), **settings)
    assert_close(scores([small], 0.1), whole, 1e-9)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = logra_spectrum(probe_of(task, model, order), **settings)
    assert_close(scores([shuffled], 0.1), whole[:, order.numpy()], 1e-9)


def test_pca_finds_the_largest_directions_and_random_sides_are_scaled():
    projections = given("cnn", "pca")
    for layer, (loss, _) in layer_gradients("cnn").items():
        projection = projections[layer]
        for side in (projection.output, projection.input):
            assert_close(side @ side.T, torch.eye(len(side)), 1e-12)
        kept = (loss @ torch.kron(projection.output, projection.input).T).square().sum() / loss.square().sum()
        other = given("cnn", "random")[layer]
        sides = [torch.linalg.qr(side.T).Q.T for side in (other.output, other.input)]
        assert kept > (loss @ torch.kron(*sides).T).square().sum() / loss.square().sum()
    layers = tracked_layers(nn.Linear(900, 800))
    projection = random_projections(layers, 64, 0)["model"]
    for side, width in ((projection.output, 800), (projection.input, 901)):
        assert side.shape == (64, width)
        assert abs(float(side.var()) * 64 - 1) < 0.05
    assert not torch.equal(projection.output[:, :100], random_projections(layers, 64, 1)["model"].output[:, :100])


def test_the_rank_is_clipped_and_stated():
    model = nn.Sequential(nn.Linear(100, 70), nn.ReLU(), nn.Linear(70, 3, bias=False))
    for rank, expected in ((64, {"0": (64, 64), "2": (3, 64)}), (200, {"0": (70, 101), "2": (3, 70)})):
        sides = random_projections(tracked_layers(model), rank, 0)
        assert {name: (len(each.output), len(each.input)) for name, each in sides.items()} == expected


def test_float32_models_give_float32_coordinates_near_the_truth():
    task = TASKS["mlp"]
    model = task.build_model(0).float()
    data = {
        split: {key: v.float() if v.is_floating_point() else v for key, v in rows.items()}
        for split, rows in task.datasets().items()
    }
    spectrum = logra_spectrum(Probe(task, model, data, TRAIN, VALIDATION, QUERIES), rank=2)
    assert (spectrum.train.dtype, spectrum.eigenvalues.dtype) == (torch.float32, torch.float64)
    assert_close(scores([spectrum], 0.1), scores([spectrum_of("mlp")], 0.1), 1e-4)


def test_confident_examples_keep_their_small_gradients_in_float32():
    """1 − p of 1e-9: the loss gradient p − onehot cancels to 0 in float32, (1 − p)·∇margin does not."""
    task = ClassificationExample("confident", lambda: nn.Linear(6, 3))
    data = {split: {**rows, "y": rows["x"][:, :3].argmax(1)} for split, rows in task.datasets().items()}
    model = task.build_model(0)
    with torch.no_grad():
        model.weight.copy_(15 * torch.eye(3, 6))
        model.bias.zero_()
    narrow = {
        split: {key: v.float() if v.is_floating_point() else v for key, v in rows.items()}
        for split, rows in data.items()
    }
    wide = Probe(task, model, data, TRAIN, VALIDATION, QUERIES)
    single = Probe(task, copy.deepcopy(model).float(), narrow, TRAIN, VALIDATION, QUERIES)

    (projection,) = random_projections(tracked_layers(model, "refuse"), 8, 0).values()

    def sizes(probe: Probe) -> Tensor:
        """Return the norm of each example's projected gradient of the loss."""
        rows = [projection.apply(*batch.layers.values(), batch.scale) for batch in loss_batches(probe, "refuse")]
        return torch.cat(rows).double().norm(dim=1)

    expected, actual = sizes(wide), sizes(single)
    assert expected.min() < 1e-9 * expected.max()
    assert float((actual / expected - 1).abs().max()) < 1e-5
    # A score is φ'ᵀ(C+λ)⁻¹g, so rows wrong by δ change it by at most |φ'||g|/λ·(δ + 2δ·σ_max/λ).
    spectra = [logra_spectrum(each, rank=8) for each in (wide, single)]
    goodness = [projection.apply(*batch.layers.values()) for batch in layer_batches(wide, "query", "goodness")]
    most = torch.outer(torch.cat(goodness).norm(dim=1), expected) / (0.1 * spectra[0].blocks[0].scale)
    wrong = float((actual / expected - 1).abs().max()) + torch.finfo(torch.float32).eps
    wide_scores, single_scores = (scores([spectrum], 0.1) for spectrum in spectra)
    share = (np.abs(single_scores - wide_scores) / most.numpy()).max()
    assert share < 2 * wrong * (1 + float(spectra[0].eigenvalues.max()) / 0.1)


def test_an_untouched_layer_and_bad_settings_are_refused_by_name():
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.dead = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + 0 * self.dead(x)

    task = ClassificationExample("dead", Dead)
    with pytest.raises(NumericalError, match=r"layer 'dead' has no gradient.*Freeze the layer"):
        logra_spectrum(Probe(task, task.build_model(0), task.datasets(), TRAIN, VALIDATION, QUERIES), rank=2)
    for settings, expected in (
        ({"rank": 0}, "rank 0"),
        ({"rank": 2.5}, "rank 2.5"),
        ({"initialization": "svd"}, "Allowed: random, pca"),
        ({"damping": "none"}, "Allowed: relative, absolute"),
        ({"projections": {}}, "no projection for layer '0'"),
        ({"projections": {"0": LayerProjection(torch.eye(2), torch.eye(2))}}, r"layer '0' takes \(2, 2\).*\(7, 7\)"),
    ):
        with pytest.raises(UsageError, match=expected):
            spectrum_of("mlp", **settings)
    with pytest.raises(TaskError, match="cannot track norm"):
        spectrum_of("conv", untracked="refuse")
    mlp = TASKS["mlp"]
    with pytest.raises(TaskError, match="no query examples"):
        logra_spectrum(Probe(mlp, mlp.build_model(0), mlp.datasets(), TRAIN, VALIDATION, []), rank=2)
    model = mlp.build_model(0)
    nn.init.constant_(model[0].weight, torch.nan)
    with pytest.raises(NumericalError, match="not finite"):
        logra_spectrum(Probe(mlp, model, mlp.datasets(), TRAIN, VALIDATION, QUERIES), rank=2)
