"""Tasks as people write them, right and wrong: a table of what a run must pass, and of what it must refuse and why."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.models.tasks import ClassificationTask, RegressionTask
from tda_backend.models.tasks.base import margin
from tda_backend.types import Batch, TrainingSettings

CLASSES, WIDTH = 4, 6


def points(num: int, seed: int) -> dict[str, Tensor]:
    """Return clouds of points, one cloud a class; the last class is rare."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.where(torch.arange(num) % 10 == 9, 3, torch.arange(num) % 3)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
    return {"x": torch.randn(num, WIDTH, generator=generator) + centres[y], "y": y}


def pictures(num: int, seed: int) -> dict[str, Tensor]:
    """Return uint8 pictures ``[num, 3, 8, 8]``, mostly black, with a bright patch in a place of its class."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.zeros(num, 3, 8, 8, dtype=torch.uint8), torch.arange(num) % CLASSES
    for row in range(num):
        high, wide = divmod(int(y[row]), 2)
        patch = torch.randint(100, 255, (3, 3, 3), generator=generator, dtype=torch.uint8)
        x[row, :, 4 * high : 4 * high + 3, 4 * wide : 4 * wide + 3] = patch
    return {"x": x, "y": y}


class Points(ClassificationTask):
    """A small network with the plain loss; the others differ from it in one place each."""

    name = "points"
    num_classes = CLASSES
    training = TrainingSettings(num_epochs=2, batch_size=16, learning_rate=0.05)

    def datasets(self):
        return {"train": points(90, 0), "test": points(40, 1)}

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.modules()


class Forward(nn.Module):
    """A network whose forward is a function of its logits and inputs."""

    def __init__(self, function: Callable[[Tensor], object], before: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)
        self.function, self.before = function, before or (lambda x: x)

    def forward(self, x: Tensor) -> object:
        return self.function(self.second(torch.relu(self.first(self.before(x)))))


# Right tasks.


class Weighted(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        weight = torch.tensor([1.0, 1.0, 1.0, 10.0], dtype=batch["x"].dtype, device=batch["x"].device)
        return functional.cross_entropy(self.logits(model, batch), batch["y"], weight=weight, reduction="none")


class WeightedUnclaimed(Weighted):
    margin_identity = False


class Smoothed(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(model, batch), batch["y"], reduction="none", label_smoothing=0.2)


class SmoothedUnclaimed(Smoothed):
    margin_identity = False


class Focal(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().train_loss(model, batch)
        return (1 - torch.exp(-loss)).square() * loss


class FocalUnclaimed(Focal):
    margin_identity = False


class LogProbability(Points):
    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return -functional.cross_entropy(self.logits(model, batch), batch["y"], reduction="none")


class LogProbabilityUnclaimed(LogProbability):
    margin_identity = False


class Saturated(Points):
    """Logits of some hundred: 1 − p is 0 in float32 for most examples."""

    def modules(self) -> nn.Module:
        network = super().modules()
        centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            network[0].weight[:CLASSES] = centres
            network[2].weight[:, :CLASSES] = 60 * torch.eye(CLASSES) - 30
        return network


class HalfInputs(Points):
    def datasets(self):
        return {key: {**each, "x": each["x"].half()} for key, each in super().datasets().items()}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"].float())


class Bfloat16(Points):
    """Parameters in half precision; the data are float32."""

    def modules(self) -> nn.Module:
        return super().modules().bfloat16()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"].to(next(model.parameters()).dtype)).float()


class Autocast(Points):
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch["x"])


class Block(nn.Module):
    """A residual block with running statistics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(x + self.norms[1](self.second(hidden)))


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


class ResNet(Points):
    """Kinks everywhere: ReLU on black pixels, max-pooling of equal values."""

    def datasets(self):
        return {"train": pictures(60, 0), "test": pictures(24, 1)}

    def modules(self) -> nn.Module:
        return nn.Sequential(
            Scaled(),
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            Block(8),
            Block(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )


class FloatResNet(ResNet):
    def datasets(self):
        return {key: {**each, "x": each["x"].float() / 255} for key, each in super().datasets().items()}

    def modules(self) -> nn.Module:
        return super().modules()[1:]


class ZeroHead(Points):
    def modules(self) -> nn.Module:
        network = super().modules()
        nn.init.zeros_(network[2].weight)
        nn.init.zeros_(network[2].bias)
        return network


class AllZero(Points):
    def modules(self) -> nn.Module:
        network = nn.Linear(WIDTH, CLASSES)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        return network


class TakesTuple(Points):
    def modules(self) -> nn.Module:
        return Forward(lambda logits: (logits, logits.exp()))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"])[0]


class TakesDict(Points):
    def modules(self) -> nn.Module:
        return Forward(lambda logits: {"logits": logits})

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"])["logits"]


class SmallLabelsCast(Points):
    def datasets(self):
        return {key: {**each, "y": each["y"].int()} for key, each in super().datasets().items()}

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().train_loss(model, {**batch, "y": batch["y"].long()})

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().measurement(model, {**batch, "y": batch["y"].long()})

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return super().output_loss(outputs, {**batch, "y": batch["y"].long()})


class SparseBags(Points):
    def datasets(self):
        def bags(num: int, seed: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            y = torch.arange(num) % 2
            return {"x": torch.randint(0, 20, (num, 6), generator=generator) + 10 * y[:, None], "y": y}

        return {"train": bags(60, 0), "test": bags(30, 1)}

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(30, 8, sparse=True), nn.Linear(8, CLASSES))


class Normed(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(WIDTH, 8),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.LayerNorm(8),
            nn.utils.parametrizations.weight_norm(nn.Linear(8, CLASSES)),
        )


class TinyLoss(SmoothedUnclaimed):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return 1e-6 * super().train_loss(model, batch)


class Line(RegressionTask):
    name = "line"
    training = TrainingSettings(num_epochs=2, batch_size=16, learning_rate=0.01)

    def datasets(self):
        def rows(num: int, seed: int) -> dict[str, Tensor]:
            x = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))
            return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5, 3.0])}

        return {"train": rows(80, 0), "test": rows(40, 1)}

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(4, 1)


class Metres(Line):
    """Targets in a small unit: losses of 1e10."""

    training = TrainingSettings(num_epochs=2, batch_size=16, learning_rate=0.01)

    def datasets(self):
        return {key: {**each, "y": 1e5 * each["y"]} for key, each in super().datasets().items()}


class Unfilled(nn.Module):
    """A buffer of NaN, as torch.empty may give, and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unfilled", torch.full((3,), float("nan")))

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        pass

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


class Unused(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), Unfilled(), nn.ReLU(), nn.Linear(8, CLASSES))


class DropoutInTraining(Points):
    """What the model itself does while it trains is no matter of the loss."""

    def modules(self) -> nn.Module:
        class Dropping(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return functional.dropout(super().forward(x), 0.5, self.training)

        return Dropping(*super().modules())


RIGHT = (
    Unused,
    DropoutInTraining,
    Points,
    WeightedUnclaimed,
    SmoothedUnclaimed,
    FocalUnclaimed,
    LogProbabilityUnclaimed,
    Saturated,
    HalfInputs,
    Bfloat16,
    Autocast,
    ResNet,
    FloatResNet,
    ZeroHead,
    AllZero,
    TakesTuple,
    TakesDict,
    SmallLabelsCast,
    SparseBags,
    Normed,
    TinyLoss,
    Line,
    Metres,
)

# Wrong tasks.


class Centre(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0, keepdim=True)


class Centred(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), Centre(), nn.ReLU(), nn.Linear(8, CLASSES))


class BatchStatistics(Points):
    def modules(self) -> nn.Module:
        layers = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU()
        return nn.Sequential(*layers, nn.Linear(8, CLASSES))


class HiddenCentre(Centred):
    """A head of zeros: all values are the same at first, whatever the hidden units are."""

    def modules(self) -> nn.Module:
        network = super().modules()
        nn.init.zeros_(network[3].weight)
        return network


class Contrast(Points):
    """Rows of a batch are compared with each other, as contrastive losses do."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        hidden = functional.normalize(model[0](batch["x"]), dim=1)
        similar = hidden @ hidden.T / 0.1
        return super().train_loss(model, batch) + 0.1 * (similar.logsumexp(1) - similar.diagonal())


class DetachedMean(Points):
    """The batch's mean enters the gradient, but no value."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().train_loss(model, batch)
        return loss + 0.1 * (loss.mean() - loss.mean().detach())


class LateMixing(Points):
    """Only the rare class looks at its neighbours, in rows that come late."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().train_loss(model, batch)
        return torch.where(batch["y"] == 3, loss + 0.1 * loss.mean(), loss)


class DropoutLeftOn(Points):
    def modules(self) -> nn.Module:
        return Forward(lambda logits: logits, lambda x: functional.dropout(x, 0.1))


class Noise(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 0.01 * torch.randn_like(hidden)


class Stochastic(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), Noise(), nn.ReLU(), nn.Linear(8, CLASSES))


class Tuples(Points):
    def modules(self) -> nn.Module:
        return Forward(lambda logits: (logits, logits.exp()))


class Dicts(Points):
    def modules(self) -> nn.Module:
        return Forward(lambda logits: {"logits": logits})


class SmallLabels(Points):
    def datasets(self):
        return {key: {**each, "y": each["y"].int()} for key, each in super().datasets().items()}


class OneHot(Points):
    def datasets(self):
        return {key: {**each, "y": functional.one_hot(each["y"], 4)} for key, each in super().datasets().items()}


class OneHotFloat(Points):
    def datasets(self):
        sets = super().datasets()
        return {key: {**each, "y": functional.one_hot(each["y"], 4).float()} for key, each in sets.items()}


class ColumnLabels(Points):
    def datasets(self):
        return {key: {**each, "y": each["y"][:, None]} for key, each in super().datasets().items()}


class ColumnTargets(Line):
    def datasets(self):
        return {key: {**each, "y": each["y"][:, None]} for key, each in super().datasets().items()}


class Column(ColumnTargets):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch["x"]), batch["y"], reduction="none")


class Squeezed(Line):
    """squeeze() takes the axis of the examples too, where there is one."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]).squeeze() - batch["y"].squeeze()).square()


class MeanLoss(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().train_loss(model, batch).mean()


class Shuffled(Points):
    def datasets(self):
        sets = super().datasets()
        order = torch.randperm(len(sets["train"]["y"]))
        return {**sets, "train": {key: value[order] for key, value in sets["train"].items()}}


class Unseeded(Points):
    def build_model(self, seed: int) -> nn.Module:
        return self.modules()


class NotAModule(Points):
    def build_model(self, seed: int) -> nn.Module:
        return super().build_model(seed).forward  # type: ignore[return-value]


class Scripted(Points):
    def build_model(self, seed: int) -> nn.Module:
        return torch.jit.script(super().build_model(seed))


class SparseFunction(SparseBags):
    def modules(self) -> nn.Module:
        return Table()


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Parameter(torch.randn(30, 8)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(functional.embedding(x, self.table, sparse=True).mean(1))


class InPlace(Points):
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        x = batch["x"]
        x -= 0.1
        return model(x)


class Counting(nn.Module):
    """Running statistics that are updated in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, hidden: Tensor) -> Tensor:
        self.seen += hidden.detach().mean(0)
        return hidden


class UpdatesInEval(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), Counting(), nn.ReLU(), nn.Linear(8, CLASSES))


class Penalised(Points):
    """Weight decay written into every example's loss."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().train_loss(model, batch) + 0.01 * sum(p.square().sum() for p in model.parameters())


class Temperature(Points):
    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return margin(self.logits(model, batch) / 2, batch["y"])


class Tripled(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return 3 * super().train_loss(model, batch)


class LateSmoothing(Points):
    """Labels are smoothed as soon as the last bias has learnt something: not at first."""

    def modules(self) -> nn.Module:
        network = super().modules()
        nn.init.zeros_(network[2].bias)
        return network

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        plain = super().train_loss(model, batch)
        smooth = -self.logits(model, batch).log_softmax(1).mean(1)
        return torch.where(model[2].bias.detach().abs().max() > 0, 0.8 * plain + 0.2 * smooth, plain)


class WeightedSmoothedSaturated(Saturated):
    """Wrong only where 1 − p is tiny: the identity says 0, the loss does not."""

    train_loss = Smoothed.train_loss


class SmoothedInTraining(Smoothed):
    """Labels are smoothed only while the model trains."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().train_loss(model, batch) if model.training else ClassificationTask.train_loss(self, model, batch)


WRONG = {
    SmoothedInTraining: ("determinism", "train_loss is another one while the model trains"),
    Weighted: ("margin identity", r"weighs classes \(10 for class 3, 1 for others\)"),
    Smoothed: ("margin identity", "label smoothing"),
    Focal: ("margin identity", "focal"),
    LogProbability: ("margin identity", "log-probability"),
    Penalised: ("margin identity", "penalty"),
    Temperature: ("margin identity", "measurement is not the margin"),
    Tripled: ("margin identity", "3 times the cross-entropy"),
    WeightedSmoothedSaturated: ("margin identity", "label smoothing"),
    Centred: ("per-example values", r'module "1" \(Centre\)'),
    BatchStatistics: ("per-example values", r'module "1" \(BatchNorm1d\)'),
    HiddenCentre: ("per-example values", r'gradient of .*module "1" \(Centre\)'),
    Contrast: ("per-example values", "interact in train_loss"),
    DetachedMean: ("per-example values", "not the sum of those of its rows"),
    DropoutLeftOn: ("determinism", r"forward of the model \(Forward\).*self.training"),
    Stochastic: ("determinism", r'module "1" \(Noise\)'),
    Tuples: ("shapes", r"returns a tuple.*\[0\]"),
    Dicts: ("shapes", r'returns a dict of logits.*\["logits"\]'),
    SmallLabels: ("shapes", r"torch.int32.*\.long\(\)"),
    OneHot: ("shapes", r"one-hot, \[n, 4\].*argmax\(1\)"),
    OneHotFloat: ("data", r"one-hot.*argmax\(1\)"),
    ColumnLabels: ("shapes", r"\[n, 1\].*squeeze\(-1\)"),
    ColumnTargets: ("shapes", r"\[n, 1\].*squeeze\(-1\)"),
    Column: ("shapes", r"\[n, 1\].*squeeze\(-1\)"),
    Squeezed: ("per-example values", r"squeeze\(-1\), not squeeze\(\)"),
    MeanLoss: ("shapes", 'reduction="none"'),
    Shuffled: ("data", 'called twice gives other "x" of split "train"'),
    Unseeded: ("model", r"manual_seed.*torch\.zeros"),
    NotAModule: ("model", "returns a method.*nn.Module"),
    Scripted: ("model", r"torch\.jit.*Return the nn\.Module itself"),
    SparseFunction: ("shapes", "sparse=False"),
    InPlace: ("shapes", "changes the batch in place"),
    UpdatesInEval: ("shapes", "changes the model in eval mode"),
}
"""Wrong task → the check that finds it, and words that name the cause."""
