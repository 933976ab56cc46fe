"""One row per method: on which settings it is tested, and the dense float64 reference that says what is right.

A row here buys a method the whole matrix of ``test_matrix.py``. Every score goes the way of a study: the method's row
of the method table plans its steps, the steps are computed into artifacts, the artifacts are read and contracted.

The task is trained by gradient descent on all examples at once from one fixed start: its run depends neither on the
order of the examples nor on seeds, and naming every example twice leaves it where it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tda_backend.models.precision import FULL, Precision
from tda_backend.models.training.fit import model_from
from tda_backend.numerics.attribution.baselines import random_scores
from tda_backend.numerics.features.layers import tracked_layers
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source
from tda_backend.numerics.spectral.contraction import scores as contract
from tda_backend.numerics.trajectory.source.staged import run_segments
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import scorer
from tda_backend.studies.methods import METHODS
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.context import RunContext, no_progress
from tda_backend.studies.pipeline.facts import TaskFacts, task_facts
from tda_backend.studies.pipeline.plan import Steps
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.planning import configurations
from tda_backend.studies.steps.examples import plan_examples
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.steps.train import plan_training, read_masks
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.study.file import resolve
from tda_backend.types import TrainingSettings
from tests.attribution.by_layer import Reference, layer_gradients
from tests.helpers_numerics import (
    NUM_CLASSES,
    ClassificationExample,
    RegressionExample,
    dense_gradients,
    influence_reference,
    trak_reference,
)
from tests.solvers.references import damped, dense_curvature
from tests.solvers.textbook import textbook
from tests.trajectory.dense import dense_ekfac, forward_change, model_of, rows_in_layers

N, WIDTH = 24, 4
"""Training examples; they are there twice."""
TRAIN, TWICE = range(N), range(2 * N)
VALIDATION, QUERIES = range(6), range(6, 16)
COPIES, WRONG = range(16, 16 + N), range(16 + N, 16 + 2 * N)
"""Rows of the test split that equal the training examples, and those that have another label than these."""
EPOCHS = (2, 4, 6)
SETTINGS = TrainingSettings(num_epochs=6, batch_size=1000, learning_rate=0.5, weight_decay=0.01)


def perceptron() -> nn.Module:
    """Return 4-3-3, smooth, so that every curvature exists."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, NUM_CLASSES))


class MatrixTask(ClassificationExample):
    """Three classes, trained by gradient descent from one start whatever the seed."""

    class_names = ("a", "b", "c")
    training = SETTINGS

    def __init__(self) -> None:
        super().__init__("matrix", perceptron, (WIDTH,), N, 16)
        train, test = self._data["train"], self._data["test"]
        train["y"] = (train["x"] @ torch.linspace(-1, 1, WIDTH * NUM_CLASSES).double().view(WIDTH, -1)).argmax(1)
        train["y"][::5] = (train["y"][::5] + 1) % NUM_CLASSES
        wrong = (train["y"] + 1) % NUM_CLASSES
        self._data = {
            "train": {key: torch.cat([value, value]) for key, value in train.items()},
            "test": {
                "x": torch.cat([test["x"], train["x"], train["x"]]),
                "y": torch.cat([test["y"], train["y"], wrong]),
            },
        }


class SingleTask(MatrixTask):
    """The same in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "single"
        single = {split: {"x": rows["x"].float(), "y": rows["y"]} for split, rows in self._data.items()}
        self._data = single

    def build_model(self, seed: int) -> nn.Module:
        """Return the same model in float32."""
        return super().build_model(seed).float()


class ErrorTask(RegressionExample):
    """Regression measured by absolute error: smaller is better. Its test split has the copies alone."""

    training = SETTINGS

    def __init__(self) -> None:
        super().__init__(
            "errors", lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 1)), (WIDTH,), N, N
        )
        x = self._data["train"]["x"]
        split = {"x": x, "y": x[:, 0] - x[:, 1] + 0.3 * x[:, 2] ** 2}
        self._data = {"train": split, "test": split}


TASKS = {"matrix": MatrixTask, "errors": ErrorTask, "single": SingleTask}


@functools.cache
def facts(task: str = "matrix") -> TaskFacts:
    """Return a task's facts."""
    return task_facts(TASKS[task](), task)


@dataclass(frozen=True)
class Asked:
    """What is asked of a method.

    Attributes:
        rows: Of the train split, in this order.
        queries: Of the test split.
        seed: Of the study and of its projections.
        device: Where steps are computed.
        task: Of whom.
        precision: Of gradients.
    """

    rows: Sequence[int] = TRAIN
    queries: Sequence[int] = QUERIES
    seed: int = 0
    device: str = "cpu"
    task: str = "matrix"
    precision: Precision = FULL

    @property
    def folder(self) -> str:
        """A name of its own: what is asked is no part of keys, for the rows are written by hand."""
        return str(
            abs(hash((tuple(self.rows), tuple(self.queries), self.seed, self.device, self.task, self.precision)))
        )


@dataclass(frozen=True)
class Answer:
    """What a method computed.

    Attributes:
        source: Its scores, or what they are contracted from.
        context: What the steps worked with.
        step: The last one.
        parameters: Of the configuration.
    """

    source: Source
    context: RunContext
    step: Any
    parameters: Mapping[str, Any]

    def scores(self, value: float | None) -> Tensor:
        """Return the scores at one λ, ``[m, n]`` float64."""
        given = None if isinstance(self.source, ScoreMatrix) else value
        return torch.as_tensor(contract(self.source, given)).double()


def study_of(name: str, settings: Mapping[str, Any], asked: Asked) -> Study:
    """Return the study of one method."""
    return resolve(
        {
            "name": "matrix",
            "task": asked.task,
            "seed": asked.seed,
            "projection": {"seed": asked.seed},
            "data": {"train": len(asked.rows), "validation": len(VALIDATION), "queries": len(asked.queries)},
            "training": {"epochs": list(EPOCHS)},
            "ground_truth": {"subsets": 0},
            "gradients": {"precision": asked.precision},
            "methods": {name: settings},
        }
    )


def answer(folder: Path, name: str, settings: Mapping[str, Any], asked: Asked | None = None) -> Answer:
    """Compute the scores of a method at the end of the run, step by step as a study does."""
    asked = Asked() if asked is None else asked
    study = study_of(name, settings, asked)
    configuration, method = configurations(study)[-1], METHODS[name]
    known = facts(asked.task)
    method.check(study.methods[name], study, known)
    steps = Steps(known.fingerprint, asked.device)
    examples = plan_examples(steps, study, known)
    epochs = sorted({*EPOCHS, *method.checkpoint_epochs(configuration, known.task, len(asked.rows))})
    trained = plan_training(steps, study, known, examples, epochs)
    planning = Planning(study, known, steps, examples, trained, 0.1)
    sources = method.sources(planning, configuration)
    store = ArtifactStore(folder / asked.folder)
    context = RunContext.begin(study, known, asked.device, store)
    _write_examples(store, examples, asked)
    for step in steps.all():
        if not store.has(step.key):
            compute(context, step, no_progress)
    return Answer(
        read_configuration(context, scorer(configuration), sources), context, sources[0], configuration.parameters
    )


def _write_examples(store: ArtifactStore, step: Step, asked: Asked) -> None:
    """Write which rows take part; nothing else is read of that step."""
    if not store.has(step.key):
        with store.writing(step.key, step.NAME, {}, []) as writer:
            for group, rows in (("train", asked.rows), ("validation", VALIDATION), ("queries", asked.queries)):
                writer.array(group, torch.tensor(list(rows)))


class Truth:
    """Dense float64 answers about the task, from plain autograd on one example at a time."""

    def __init__(self) -> None:
        self.task = MatrixTask()
        self.data = self.task.datasets()
        self.states = _descent(self.task, torch.ones(N, dtype=torch.float64))

    def model(self, epoch: int = EPOCHS[-1]) -> nn.Module:
        """Return the model at the end of an epoch."""
        return model_from(self.task, {name: value.detach() for name, value in self.states[epoch].items()})

    @functools.cache  # noqa: B019  # there is one
    def gradients(self, group: str, epoch: int = EPOCHS[-1]) -> Tensor:
        """Return dense gradients of the queries' goodness, the examples' goodness or their loss, ``[·, p]``."""
        split, rows, quantity = {
            "query": ("test", QUERIES, "goodness"),
            "train": ("train", TRAIN, "goodness"),
            "loss": ("train", TRAIN, "train_loss"),
        }[group]
        return dense_gradients(self.task, self.model(epoch), self.data[split], rows, quantity)

    @functools.cache  # noqa: B019  # there is one
    def curvature(self, kind: str) -> Tensor:
        """Return a curvature of the mean loss, ``[p, p]``."""
        return dense_curvature(self.task, self.model(), TRAIN, kind)

    @property
    def dot(self) -> Tensor:
        """What influence becomes at a large λ, times λ: −φ'·∇ℓ, ``[m, n]``."""
        return -self.gradients("query") @ self.gradients("loss").T

    def applied(self, operator: Callable[[Tensor], Tensor]) -> Tensor:
        """Return −(operator of each query)·∇ℓ, ``[m, n]``."""
        return -torch.stack([operator(query) for query in self.gradients("query")]) @ self.gradients("loss").T


def _descent(task: MatrixTask, weights: Tensor) -> dict[int, dict[str, Tensor]]:
    """Return every epoch's parameters of gradient descent, example i weighted by w_i in the mean loss.

    Differentiable in the weights, ``[n]``.
    """
    model, data = task.build_model(0), {key: value[:N] for key, value in task.datasets()["train"].items()}
    state = dict(model.named_parameters())
    states = {}
    for epoch in range(1, SETTINGS.num_epochs + 1):
        losses = nn.functional.cross_entropy(functional_call(model, state, (data["x"],)), data["y"], reduction="none")
        gradients = torch.autograd.grad(
            (weights * losses).sum() / weights.detach().sum(), list(state.values()), create_graph=True
        )
        state = {
            name: value - SETTINGS.learning_rate * (gradient + SETTINGS.weight_decay * value)
            for (name, value), gradient in zip(state.items(), gradients, strict=True)
        }
        states[epoch] = state
    return states


def _goodness(task: MatrixTask, state: Mapping[str, Tensor]) -> Tensor:
    """Return the goodness of every query, differentiable in the parameters, ``[m]``."""
    model, rows = task.build_model(0), torch.tensor(list(QUERIES))
    batch = {key: value[rows] for key, value in task.datasets()["test"].items()}

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional_call(model, dict(state), (x,))

    return task.measurement_sign * task.measurement(Fixed(), batch)


SlowTruth = Callable[[Truth, Answer, Any], Tensor]
"""(truth, answer, λ) → the scores as they should be, ``[m, n]``."""


def fisher_influence(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return −φ'ᵀ(F + λ)⁻¹g."""
    return influence_reference(truth.gradients("query"), truth.gradients("loss"), value)


def trak(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return φ'ᵀ(ΦᵀΦ/n + λ)⁻¹Φᵀ ⊙ (1 − p)."""
    goodness = truth.task.measurement(truth.model(), {key: each[:N] for key, each in truth.data["train"].items()})
    return trak_reference(truth.gradients("query"), truth.gradients("train"), goodness.detach().sigmoid(), value)


def tracin(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return −Σ_c η φ'_c·∇ℓ_c."""
    products = [truth.gradients("query", each) @ truth.gradients("loss", each).T for each in EPOCHS]
    return -SETTINGS.learning_rate * sum(products)


def explicit(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return −φ'ᵀ(|H| + λ)⁻¹g."""
    values, vectors = torch.linalg.eigh(truth.curvature(answer.parameters["curvature"]))
    return truth.applied(lambda query: vectors @ ((vectors.T @ query) / (values.abs() + value)))


def conjugate_gradients(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the textbook's t steps on the dense matrix."""
    value = answer.parameters.get("regularization", value)
    matrix = damped(truth.curvature(answer.parameters["curvature"]), value)
    return truth.applied(lambda query: textbook(matrix, query, answer.parameters["max_iter"]))


def lissa(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the recursion on the whole data's dense matrix."""
    value, scaling = answer.parameters.get("regularization", value), answer.parameters["scaling"]
    step = (
        torch.eye(len(truth.gradients("query").T))
        - damped(truth.curvature(answer.parameters["curvature"]), value) / scaling
    )

    def recursion(query: Tensor) -> Tensor:
        state = query
        for _ in range(answer.parameters["depth"]):
            state = query + step @ state
        return state / scaling

    return truth.applied(recursion)


def by_layer(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the sum over layers with np.kron written out."""
    kind, fisher = answer.step.kind, answer.parameters["fisher"]
    dense = Reference(truth.task, kind, fisher, truth.model(), TRAIN, QUERIES)
    return torch.from_numpy(sum(dense.scores(value).values()))


def whole_layers(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return influence with each layer's own Fisher: at full rank nothing is projected away."""
    model = truth.model()
    sides = [
        layer_gradients(truth.task, model, tracked_layers(model, "refuse"), *each)
        for each in (("test", QUERIES, "goodness"), ("train", TRAIN, "train_loss"))
    ]
    return sum(
        influence_reference(torch.from_numpy(sides[0][name]), torch.from_numpy(sides[1][name]), value)
        for name in sides[0]
    )


def source(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the walk back through the segments with explicit curvature matrices."""
    states = {epoch: truth.model(epoch).state_dict() for epoch in truth.states}
    plan = run_segments(truth.task, truth.data["train"], list(TRAIN), EPOCHS[-1], 2, 4)
    is_fast = answer.step.method == "fast-source"
    curvatures, gradients = [], []
    for segment in plan:
        own = [states[epoch] for epoch in segment.epochs]
        if is_fast:
            own = [{name: sum(state[name] for state in own) / len(own) for name in own[0]}]
        models = [model_of(truth.task, state) for state in own]
        curvature = dense_ekfac(truth.task, models, list(TRAIN))
        curvatures.append(curvature + SETTINGS.weight_decay * torch.eye(len(curvature)))
        rows = [rows_in_layers(truth.task, model, "train", TRAIN, "train_loss") for model in models]
        gradients.append(sum(rows) / len(rows))
    query = rows_in_layers(truth.task, truth.model(), "test", QUERIES, "goodness")
    return query @ forward_change(curvatures, gradients, [each.duration for each in plan], [1.0, 1.0])


def replayed(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return −φ'(θ_T)·Σ_t η ∇ℓ(θ_t), the mean's 1/n times n."""
    start = dense_gradients(truth.task, truth.task.build_model(0), truth.data["train"], TRAIN, "train_loss")
    seen = [start, *(truth.gradients("loss", epoch) for epoch in range(1, SETTINGS.num_epochs))]
    return -SETTINGS.learning_rate * truth.gradients("query") @ sum(seen).T


def derivative(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return n·d goodness / d w_i through the whole run, by autograd."""
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    goodness = _goodness(truth.task, _descent(truth.task, weights)[EPOCHS[-1]])
    return N * torch.stack([torch.autograd.grad(each, weights, retain_graph=True)[0] for each in goodness])


def hidden_cosine(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the cosine of the inputs of the last layer."""
    below = nn.Sequential(*list(truth.model())[:-1])  # type: ignore[call-overload]
    with torch.no_grad():
        query, train = below(truth.data["test"]["x"][list(QUERIES)]), below(truth.data["train"]["x"][:N])
    return nn.functional.cosine_similarity(query[:, None], train[None], dim=2)


def gradient_products(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return −φ'·∇ℓ at the last checkpoint."""
    return truth.dot


def closeness(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return exp(−d²/2w), w the mean squared distance of standardised inputs, negative for another label."""
    train, query = truth.data["train"]["x"][:N], truth.data["test"]["x"][list(QUERIES)]
    squares = (((query[:, None] - train[None]) / train.std(0, correction=0)) ** 2).sum(2)
    same = truth.data["test"]["y"][list(QUERIES)][:, None] == truth.data["train"]["y"][:N]
    return torch.exp(-squares / (2 * squares.mean())) * torch.where(same, 1.0, -1.0)


def subset_means(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the mean goodness of models with an example less that of models without, each trained again."""
    masks = torch.from_numpy(read_masks(answer.context.open_all(answer.step.downsample)))
    ends = [_descent(truth.task, mask.double())[EPOCHS[-1]] for mask in masks]
    goodness = torch.stack([_goodness(truth.task, end).detach() for end in ends])
    return torch.stack([goodness[m].mean(0) - goodness[~m].mean(0) for m in masks.T], 1)


def draws(truth: Truth, answer: Answer, value: Any) -> Tensor:
    """Return the numbers that the study's seed stands for, drawn for more rows than asked."""
    wide = random_scores(hashed_seed("random", 0, 0), TWICE, range(40)).values
    return wide[list(QUERIES), :N].double()


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one method is tested on.

    Attributes:
        settings: Its table in the study file.
        reference: The slow truth.
        values: λ at which it is compared; the first is the smallest that it takes.
        tolerance: Largest error, relative to the largest score: coordinates are stored in float32.
        large: Settings with which, at λ = ``LARGE``, λ times the scores are the dot product; ``None``: it has no λ.
        refuses_zero: Whether λ = 0 is refused, for these curvatures are singular.
        drawn: Settings with which the seed matters; ``None``: it never does.
        sees_labels: Whether a copy with another label hurts.
        helps_on_average: Whether a copy helps on average only.
        beyond: Name of a test → why the method does not do that.
    """

    settings: Mapping[str, Any]
    reference: SlowTruth
    values: tuple[float | None, ...] = (None,)
    tolerance: float = 1e-5
    large: Mapping[str, Any] | None = None
    refuses_zero: bool = False
    drawn: Mapping[str, Any] | None = None
    sees_labels: bool = True
    helps_on_average: bool = False
    beyond: Mapping[str, str] = field(default_factory=dict)


LARGE = 1e6
EMPIRICAL = {"curvature": ["empirical-fisher"]}
SEGMENTS = {"epochs": [EPOCHS[-1]], "num_segments": [2], "num_checkpoints": [4], "fisher": ["empirical"]}
BY_PLACE = "its subsets are drawn by the place of an example"


def _layered() -> Row:
    settings = {"fisher": ["empirical"]}
    return Row(settings=settings, reference=by_layer, values=(1e-3, 0.3), large=settings, drawn={"fisher": ["true"]})


ROWS: dict[str, Row] = {
    "iffim": Row(
        settings={}, reference=fisher_influence, values=(0.0, 1e-3, 1.0), large={}, drawn={"projection_dim": [5]}
    ),
    "trak": Row(settings={}, reference=trak, values=(0.0, 1e-3, 1.0), large={}, drawn={"projection_dim": [5]}),
    "tracin": Row(settings={}, reference=tracin, drawn={"projection_dim": [5]}),
    "if-explicit": Row(
        settings={"curvature": ["hessian"], "indefinite": "absolute"},
        reference=explicit,
        values=(1e-3, 1.0),
        large={"curvature": ["ggn"]},
        refuses_zero=True,
        drawn={"curvature": ["true-fisher"]},
    ),
    "if-cg": Row(
        settings={**EMPIRICAL, "max_iter": [4]},
        reference=conjugate_gradients,
        values=(1e-2, 1.0),
        large={"curvature": ["ggn"], "max_iter": [4]},
        drawn={"curvature": ["true-fisher"], "max_iter": [4]},
    ),
    "if-cg-run": Row(
        settings={"curvature": ["ggn"], "max_iter": [4]},
        reference=conjugate_gradients,
        large={**EMPIRICAL, "regularization": [LARGE]},
    ),
    "if-lissa": Row(
        settings={**EMPIRICAL, "scaling": [20.0], "depth": [30]},
        reference=lissa,
        values=(0.0, 1e-2, 1.0),
        large={**EMPIRICAL, "scaling": [LARGE], "depth": [3]},
        drawn={"curvature": ["true-fisher"], "scaling": [20.0], "depth": [3]},
    ),
    "if-lissa-run": Row(
        settings={"curvature": ["ggn"], "scaling": [20.0], "depth": [30], "batch_size": [2 * N]},
        reference=lissa,
        large={**EMPIRICAL, "scaling": [LARGE], "regularization": [LARGE], "depth": [3], "batch_size": [2 * N]},
        drawn={"curvature": ["ggn"], "scaling": [100.0], "depth": [5], "batch_size": [8]},
    ),
    "if-arnoldi": Row(
        settings={"curvature": ["ggn"], "num_iterations": [27], "num_eigenvalues": [27]},
        reference=explicit,
        values=(1e-3, 1.0),
        large={"curvature": ["ggn"], "num_iterations": [27], "num_eigenvalues": [27]},
        refuses_zero=True,
        drawn={"curvature": ["ggn"], "num_iterations": [4], "num_eigenvalues": [2]},
    ),
    "ekfac": _layered(),
    "kfac": _layered(),
    "diagonal": _layered(),
    "logra": Row(
        settings={"rank": [9], "damping": ["absolute"]},
        reference=whole_layers,
        values=(0.0, 1e-3, 1.0),
        large={"rank": [9], "damping": ["absolute"]},
        drawn={"rank": [2]},
    ),
    "source": Row(settings=SEGMENTS, reference=source, drawn={**SEGMENTS, "fisher": ["true"]}),
    "fast-source": Row(settings=SEGMENTS, reference=source, drawn={**SEGMENTS, "fisher": ["true"]}),
    "hydra-fast": Row(settings={}, reference=replayed),
    "unrolled-influence": Row(settings={}, reference=derivative),
    "repsim": Row(settings={}, reference=hidden_cosine, sees_labels=False),
    "gradient-similarity": Row(settings={"similarity": ["dot"]}, reference=gradient_products),
    "nearest-inputs": Row(settings={}, reference=closeness),
    "empirical-influence": Row(
        settings={"subsets": [40]},
        reference=subset_means,
        drawn={"subsets": [40]},
        helps_on_average=True,
        beyond={"order": BY_PLACE, "scale": "one example's effect, not that of its weight: twice as many, half of it"},
    ),
    "random": Row(
        settings={},
        reference=draws,
        drawn={},
        beyond={"sign": "chance neither helps nor hurts", "scale": "every row has a number of its own"},
    ),
}
