"""Small tasks in float64 and the slow, obviously right references that the fast routes are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.models.probe import Indices, Probe
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.decompose import dual_coordinates, primal_coordinates
from tda_backend.types import Batch, Task

NUM_CLASSES = 3


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logit_y − logsumexp(other logits), ``[b]``."""
    index = labels[:, None]
    chosen = logits.gather(1, index)[:, 0]
    return chosen - logits.scatter(1, index, -torch.inf).logsumexp(1)


class ClassificationExample(Task):
    """Softmax classification of Gaussian inputs by any model; the margin identity holds."""

    margin_identity = True
    num_classes = NUM_CLASSES

    def __init__(self, name: str, build, shape: Sequence[int] = (6,), num_train: int = 24, num_test: int = 16) -> None:
        self.name = name
        self._build = build
        generator = torch.Generator().manual_seed(5)
        self._data = {
            split: {
                "x": torch.randn(size, *shape, generator=generator, dtype=torch.float64),
                "y": torch.randint(0, NUM_CLASSES, (size,), generator=generator),
            }
            for split, size in (("train", num_train), ("test", num_test))
        }

    def datasets(self):
        return self._data

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self._build().double()

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return margin(model(batch["x"]), batch["y"])

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"])

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch["y"], reduction="none")

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]


class RegressionExample(ClassificationExample):
    """Regression measured by absolute error: no margin identity, and smaller is better."""

    margin_identity = False
    measurement_sign = -1
    num_classes = None

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"])[:, 0]

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return 0.5 * (outputs - batch["y"]) ** 2

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return outputs + torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return 0.5 * (model(batch["x"])[:, 0] - batch["y"]) ** 2

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"])[:, 0] - batch["y"]).abs()


class Positions(nn.Module):
    """Linear layers applied to [b, t, d], as in a transformer's feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.again = nn.Linear(5, 5, bias=False)
        self.last = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        hidden = hidden + self.again(torch.tanh(self.again(hidden)))  # one layer called twice
        return self.last(hidden.mean(1))


class Convolutional(nn.Module):
    """Convolution and LayerNorm: no rank-one factors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x[:, None]))).flatten(1))


class NormalisedCNN(nn.Module):
    """Conv2d with stride and padding, BatchNorm with statistics that are not trivial, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3])
        self.norm.running_var = torch.tensor([0.5, 1.5, 2.0])
        self.out = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).flatten(1))


class TinyTransformer(nn.Module):
    """Attention, LayerNorm and an embedding tied with the output head; classes are the first tokens."""

    def __init__(self, vocabulary: int = 5, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.feed = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        normed = self.norm(hidden)
        hidden = hidden + self.attention(normed, normed, normed, need_weights=False)[0]
        hidden = hidden + torch.tanh(self.feed(hidden))
        return F.linear(hidden.mean(1), self.embedding.weight)[:, :NUM_CLASSES]


class TokenExample(ClassificationExample):
    """Classification of short token sequences."""

    def __init__(self, name: str, build) -> None:
        super().__init__(name, build, shape=(4,))
        generator = torch.Generator().manual_seed(11)
        for split in self._data.values():
            split["x"] = torch.randint(0, 5, (len(split["y"]), 4), generator=generator)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(7, NUM_CLASSES))


TASKS: dict[str, Task] = {
    "linear": ClassificationExample("linear", lambda: nn.Linear(6, NUM_CLASSES)),
    "mlp": ClassificationExample("mlp", mlp),
    "positions": ClassificationExample("positions", Positions, shape=(5, 4)),
    "regression": RegressionExample("regression", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))),
    "conv": ClassificationExample("conv", Convolutional),
    "cnn": ClassificationExample("cnn", NormalisedCNN, shape=(2, 4, 4)),
    "transformer": TokenExample("transformer", TinyTransformer),
}
FACTOR_TASKS = ("linear", "mlp", "positions", "regression")
VALIDATION, QUERIES = range(6), range(6, 16)


def probe_of(task: Task, model: nn.Module | None = None, train: Indices | None = None, **settings) -> Probe:
    """Return a small task's probe at a checkpoint: all train rows unless given, VALIDATION and QUERIES."""
    model = task.build_model(0) if model is None else model
    everyone = range(len(task.datasets()["train"]["y"]))
    return Probe(task, model, task.datasets(), everyone if train is None else train, VALIDATION, QUERIES, **settings)


def split_probe(task: Task, model: nn.Module, data: Batch, rows: Indices, **settings) -> Probe:
    """Return a probe whose train examples are some rows of one split, whichever it is."""
    return Probe(task, model, {"train": data}, rows, **settings)


def features_of(task: Task, model: nn.Module | None = None, **settings) -> CheckpointFeatures:
    """Return the checkpoint features of a small task."""
    return checkpoint_features(probe_of(task, model, **settings))


def dense_gradients(task: Task, model: nn.Module, data: Batch, indices, quantity: str) -> Tensor:
    """Return per-example gradients ``[N, p]`` by one autograd call an example; the slow truth."""
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for index in indices:
        batch = {key: value[index : index + 1] for key, value in data.items()}
        if quantity == "goodness":
            value = task.measurement_sign * task.measurement(model, batch)
        else:
            value = task.train_loss(model, batch)
        gradients = torch.autograd.grad(value.sum(), parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in gradients]))
    return torch.stack(rows)


def dense_groups(task: Task, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Return dense gradients of every group, ``[·, p]``, and the goodness of the train examples."""
    model = task.build_model(0) if model is None else model
    data = task.datasets()
    everyone = range(len(data["train"]["y"]))
    with torch.no_grad():
        goodness = task.measurement_sign * task.measurement(model.eval(), data["train"])
    return {
        "train": dense_gradients(task, model, data["train"], everyone, "goodness"),
        "loss": dense_gradients(task, model, data["train"], everyone, "train_loss"),
        "validation": dense_gradients(task, model, data["test"], VALIDATION, "goodness"),
        "query": dense_gradients(task, model, data["test"], QUERIES, "goodness"),
        "goodness": goodness,
    }


def influence_reference(query: Tensor, loss: Tensor, regularization: float) -> Tensor:
    """Return −φ'ᵀ(F+λI)⁻¹g_i by a dense inverse (λ = 0: pseudo-inverse), ``[m, n]``."""
    fisher = loss.T @ loss / len(loss)
    return -_solved(query, fisher, regularization, len(loss)) @ loss.T


def trak_reference(query: Tensor, train: Tensor, probability: Tensor, regularization: float) -> Tensor:
    """Return n·φᵀ(ΦᵀΦ+nλI)⁻¹Φᵀ ⊙ (1−p), ``[m, n]``."""
    num = len(train)
    return num * (_solved(query, train.T @ train, num * regularization, num) @ train.T) * (1 - probability)


def _solved(query: Tensor, matrix: Tensor, shift: float, num_train: int) -> Tensor:
    """Return query·(matrix + shift·I)⁻¹; solved, for an explicit inverse is wrong by 1e-6 at λ = 1e-7."""
    if shift > 0:
        return torch.linalg.solve(matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype), query.T).T
    return query @ torch.linalg.pinv(matrix, rtol=num_train * torch.finfo(torch.float64).eps, hermitian=True)


def make_spectrum(
    train: Tensor,
    query: Tensor,
    validation: Tensor | None = None,
    *,
    route: str = "primal",
    weights: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Spectrum:
    """Return the spectrum of explicit rows: ``train`` as it enters (−∇ℓ for influence), ``query`` ∇goodness."""
    validation = query if validation is None else validation
    others = torch.cat([query, validation]).double()
    rows = train.double()
    if route == "primal":
        basis = primal_coordinates(rows, others, what="test", dtype=dtype)
    else:
        basis = dual_coordinates(rows @ rows.T / len(rows), others @ rows.T, what="test", dtype=dtype)
    split = len(query)
    return Spectrum(basis.eigenvalues, basis.train, basis.others[:split], basis.others[split:], weights, basis.num_cut)


def random_rows(seed: int, *shapes: tuple[int, int], decay: float = 0.0) -> list[Tensor]:
    """Return Gaussian float64 matrices whose columns shrink like j^−decay."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for shape in shapes:
        scale = torch.arange(1, shape[1] + 1, dtype=torch.float64) ** -decay
        result.append(torch.randn(*shape, generator=generator, dtype=torch.float64) * scale)
    return result


def all_subsets(num: int, size: int | None = None) -> np.ndarray:
    """Return every subset of ``num`` items (of one size, or of all) as bool rows."""
    rows = np.array(list(itertools.product([False, True], repeat=num)))
    return rows if size is None else rows[rows.sum(1) == size]


def assert_close(actual, expected, tolerance: float = 1e-9) -> None:
    """Compare relative to the largest expected entry."""
    left = torch.as_tensor(np.asarray(actual), dtype=torch.float64)
    right = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    assert left.shape == right.shape, (left.shape, right.shape)
    scale = max(float(right.abs().max()), 1e-300)
    error = float((left - right).abs().max()) / scale
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance:g}"
