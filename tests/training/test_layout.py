"""Models that pool maxima are trained pixel by pixel on the CPU: the same numbers, another memory format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes import loop
from tda_backend.models.training.routes.layout import CHANNELS_LAST, laid_out, training_layout
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.run import TrainingRun
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.plan import Steps
from tests.runs.fake_plans import Base
from tests.training.tiny import TinyTask


class Pictures(TinyTask):
    """The twelve numbers as a picture of 3 × 4, scaled up."""

    name = "pictures"
    pools = True

    def modules(self) -> nn.Module:
        layers = [nn.Unflatten(1, (1, 3, 4)), nn.Upsample(scale_factor=2), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * self.pools
        return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(3))

    def build_model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.modules().to(self.dtype)
            model(torch.zeros(1, 12, dtype=self.dtype))  # lazy layers learn their sizes
            return model


class Unpooled(Pictures):
    """Convolutions alone."""

    name = "unpooled"
    pools = False


class Functional(nn.Module):
    """Pools without a module that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.max_pool2d(self.conv(x.view(-1, 1, 3, 4)), 3).flatten(1))


class PoolsInForward(Pictures):
    """A model of one's own."""

    name = "pools-in-forward"

    def modules(self) -> nn.Module:
        return Functional()


def layout_of(task: TinyTask, device: str = "cpu") -> str | None:
    return training_layout(task, task.build_model(0), validate_data(task)["train"], device)


def test_only_models_that_pool_change_their_format():
    assert layout_of(Pictures()) == layout_of(PoolsInForward()) == CHANNELS_LAST
    assert layout_of(Unpooled()) is layout_of(TinyTask()) is None
    assert layout_of(Pictures(), "cuda") is None


def test_looking_changes_neither_modes_nor_random_numbers():
    task = Pictures()
    model, data = task.build_model(0).train(), validate_data(task)["train"]
    next(model.children()).eval()
    before = torch.get_rng_state()
    training_layout(task, model, data, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.children()][:3] == [False, True, True]


def test_a_model_that_fails_on_a_row_stays_as_it_is():
    class Failing(Pictures):
        def train_loss(self, model, batch):
            raise ValueError("not one row")

    assert layout_of(Failing()) is None


@pytest.mark.parametrize("task", [Pictures(), PoolsInForward()], ids=lambda task: task.name)
def test_training_gives_the_numbers_of_the_usual_format(task: TinyTask, monkeypatch):
    data, settings = validate_data(task)["train"], training_settings(task)

    def trained() -> dict[str, torch.Tensor]:
        trainer = LoopTrainer(TrainingRun(task, {"train": data}, np.arange(40), 5), task.build_model(5), settings)
        for epoch in (1, 2, 3):
            trainer.train_epoch(epoch)
        return trainer.states()[0]

    pixels = trained()
    monkeypatch.setattr(loop, "training_layout", lambda *arguments: None)
    planes = trained()
    assert pixels.keys() == planes.keys()
    for name, value in planes.items():
        torch.testing.assert_close(pixels[name], value, rtol=1e-9, atol=1e-11)


def test_parameters_are_moved_where_a_format_is_asked_for():
    model = nn.Conv2d(3, 4, 3)
    assert laid_out(model, None) is model
    assert model.weight.is_contiguous()
    laid_out(model, CHANNELS_LAST)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_results_of_another_format_have_other_keys():
    facts = task_facts(Pictures(), "pictures")
    assert facts.layout == CHANNELS_LAST
    assert task_facts(Unpooled(), "unpooled").layout is None
    step = Base(label="base", value=1)
    plain = Steps("f", "cpu").add(step).key
    assert Steps("f", "cpu", None).add(step).key == plain
    assert Steps("f", "cpu", CHANNELS_LAST).add(step).key != plain
    assert Steps("f", "cpu", CHANNELS_LAST).apart().add(step).key == Steps("f", "cpu", CHANNELS_LAST).add(step).key
    assert Steps("f", "cuda", CHANNELS_LAST).add(step).key == Steps("f", "cuda").add(step).key
