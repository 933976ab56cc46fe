"""Mistakes that a newcomer made in ordinary tasks: each is refused before anything is trained, and named."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.types import Batch
from tests.training.contract_tasks import CLASSES, WIDTH, Line, LogProbabilityUnclaimed, Points, SmoothedUnclaimed


class Kept(Points):
    """One model for all: what is trained goes on where the last one ended."""

    model: nn.Module | None = None

    def build_model(self, seed: int) -> nn.Module:
        self.model = self.model or super().build_model(seed)
        return self.model


class OneSeed(Points):
    def build_model(self, seed: int) -> nn.Module:
        return super().build_model(0)


class Blocks(nn.Module):
    """Layers in a plain list, which are no part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(WIDTH, WIDTH) for _ in range(2)]
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


class ListOfModules(Points):
    def modules(self) -> nn.Module:
        return Blocks()


class Features(nn.Module):
    """Random features in a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = torch.randn(WIDTH, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cos(x @ self.directions.to(x)))


class RandomFeatures(Points):
    def modules(self) -> nn.Module:
        return Features()


class Accuracy(SmoothedUnclaimed):
    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return (self.logits(model, batch).argmax(1) == batch["y"]).float()


class ClaimedAccuracy(Accuracy):
    margin_identity = True


class DetachedLoss(SmoothedUnclaimed):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().train_loss(model, batch).detach()


class WrongSign(LogProbabilityUnclaimed):
    measurement_sign = -1


class Square(Line):
    """[n, 1] − [n], averaged again to one number for each example."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]) - batch["y"]).square().mean(1)


class FlatOutput(Line):
    def build_model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().build_model(seed), nn.Flatten(0))


class SetsTheMode(Points):
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        model.train()
        return super().train_loss(model, batch)


class Words(Points):
    """Twelve tokens of a vocabulary of thirty; some rows have one more."""

    vocabulary = 31

    def datasets(self):
        drawn = torch.Generator().manual_seed(4)
        sets = {name: torch.randint(30, (num, 12), generator=drawn) for name, num in (("train", 90), ("test", 40))}
        sets["train"][::4, 3] = 30
        return {name: {"x": x, "y": torch.arange(len(x)) % CLASSES} for name, x in sets.items()}

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(self.vocabulary, 8), nn.Linear(8, CLASSES))


class OutOfVocabulary(Words):
    vocabulary = 30


class MaxNorm(Words):
    def modules(self) -> nn.Module:
        table = nn.Embedding(31, 8, max_norm=0.5)
        return nn.Sequential(table, nn.Flatten(), nn.Linear(96, CLASSES))


class SmallHead(Points):
    def modules(self) -> nn.Module:
        return nn.Linear(WIDTH, CLASSES - 1)


class WrongWidth(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), nn.Linear(9, CLASSES))


class Maps(Points):
    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, CLASSES * 4), nn.Unflatten(1, (CLASSES, 2, 2)))


class EmptyRow(SmoothedUnclaimed):
    """A mean over nothing, as of a text that is all padding."""

    empty = slice(2, 3)

    def datasets(self):
        sets = super().datasets()
        weight = torch.ones(len(sets["train"]["y"]))
        weight[self.empty] = 0
        return {"train": {**sets["train"], "w": weight}, "test": {**sets["test"], "w": torch.ones(40)}}

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        plain = functional.cross_entropy(self.logits(model, batch), batch["y"], reduction="none")
        return plain * batch["w"] / batch["w"]


class LateEmptyRow(EmptyRow):
    empty = slice(9, None)


MISTAKES = {
    Kept: ("model", r"returned before \(0\.weight\).*deepcopy"),
    OneSeed: ("model", "are equal.*pretrained = True"),
    ListOfModules: ("state", r"not in state_dict\(\): blocks.*nn\.ModuleList"),
    RandomFeatures: ("state", r"not in state_dict\(\): directions.*register_buffer"),
    Accuracy: ("shapes", "measurement has no gradient.*argmax"),
    ClaimedAccuracy: ("shapes", "measurement has no gradient.*argmax"),
    DetachedLoss: ("shapes", r"train_loss has no gradient.*detach\(\)"),
    WrongSign: ("sign", r"oodness.*falls where the loss does.*measurement_sign should be \+1"),
    Square: ("per-example values", r"\[n\] is combined with one of \[n, 1\].*squeeze\(-1\)"),
    FlatOutput: ("shapes", r"returns \[n\].*\[n, 1\]"),
    SetsTheMode: ("shapes", r"train_loss changes the model's mode.*model\.train\(\)"),
    OutOfVocabulary: (
        "shapes",
        r"EmbeddingBag '0' has rows 0…29, and is asked for 30|not in the valid range \[0, 30\)",
    ),
    MaxNorm: ("shapes", r"changes the model in eval mode \(0\.weight\).*max_norm"),
    SmallHead: ("finite", r"returns \[\d+, 3\], where num_classes = 4"),
    WrongWidth: ("shapes", r"fails in module Linear '1', which is given \[6, 8\]"),
    Maps: ("shapes", r"returns \[6, 4, 2, 2\], where \[n, 4\] is wanted"),
    EmptyRow: ("shapes", "train_loss is not finite for 1 of 6 examples, first for example 2"),
    LateEmptyRow: ("finite", r"train_loss is not finite for \d+ of \d+ examples, first for example \d+"),
}
"""Mistake → the check that finds it, and words that name the cause."""
