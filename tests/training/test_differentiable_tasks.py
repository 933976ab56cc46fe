"""The convolutional network and the GPT: per-example gradients and higher derivatives by ``torch.func``; the text."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from tda_backend.models.checking.check import check_task
from tda_backend.models.tasks.built_in.gpt import GPT, GPTShape, LayerNorm
from tda_backend.models.tasks.built_in.language import (
    CONTEXT,
    FIRST_MODERN_YEAR,
    VOCABULARY,
    SotuGPT,
    block_starts,
    decode,
    encode,
    speeches,
)
from tda_backend.models.tasks.data import shipped_digest, take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import evaluate
from tda_backend.models.training.run import TrainingRun
from tda_backend.seeds import hashed_rng
from tda_backend.types import Task
from tests.training.tiny import TinyTask

NAMES = ("mnist-mlp-gelu", "mnist-cnn-adamw", "sotu-gpt")
Parameters = dict[str, Tensor]


@cache
def loaded(name: str) -> Task:
    return load_task(name)


class Doubled:
    """A task's loss in float64 as functions of its parameters, for a few training rows."""

    def __init__(self, name: str, rows: int) -> None:
        self.task = loaded(name)
        batch = take(validate_data(self.task)["train"], slice(0, rows))
        self.batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        self.model = self.task.build_model(3).double()
        self.parameters = {key: value.detach() for key, value in self.model.named_parameters()}
        rng = np.random.default_rng(0)
        self.direction = {
            key: torch.from_numpy(0.1 * rng.standard_normal(tuple(value.shape)))
            for key, value in self.parameters.items()
        }

    def loss(self, parameters: Parameters, batch: dict[str, Tensor] | None = None) -> Tensor:
        def model(*inputs):
            return functional_call(self.model, parameters, inputs)

        return self.task.train_loss(model, self.batch if batch is None else batch).mean()

    def hessian_product(self, parameters: Parameters) -> Parameters:
        return jvp(grad(self.loss), (parameters,), (self.direction,))[1]

    def moved(self, step: float) -> Parameters:
        return {key: value + step * self.direction[key] for key, value in self.parameters.items()}


def flat(parameters: Parameters) -> Tensor:
    return torch.cat([value.reshape(-1) for value in parameters.values()])


@pytest.mark.parametrize("name", NAMES)
def test_vmapped_gradients_are_those_of_single_examples(name: str):
    doubled = Doubled(name, 4)

    def one(parameters: Parameters, row: dict[str, Tensor]) -> Tensor:
        return doubled.loss(parameters, {key: value[None] for key, value in row.items()})

    found = vmap(grad(one), in_dims=(None, 0))(doubled.parameters, doubled.batch)
    for example in range(4):
        loss = doubled.task.train_loss(doubled.model, take(doubled.batch, slice(example, example + 1)))[0]
        expected = torch.autograd.grad(loss, list(doubled.model.parameters()))
        torch.testing.assert_close(
            torch.cat([value[example].reshape(-1) for value in found.values()]),
            torch.cat([value.reshape(-1) for value in expected]),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("name", NAMES)
def test_hessian_products_and_third_derivatives_are_differences_of_gradients(name: str):
    """H·d and ∇³L[d, d] by forward over reverse, against central differences."""
    doubled, step = Doubled(name, 3), 1e-4
    gradients = [flat(grad(doubled.loss)(doubled.moved(k * step))) for k in (-2, -1, 1, 2)]
    first = (gradients[0] - 8 * gradients[1] + 8 * gradients[2] - gradients[3]) / (12 * step)
    product = flat(doubled.hessian_product(doubled.parameters))
    assert float((product - first).norm() / first.norm()) < 1e-6
    third = flat(jvp(doubled.hessian_product, (doubled.parameters,), (doubled.direction,))[1])
    products = [flat(doubled.hessian_product(doubled.moved(k * step))) for k in (-2, -1, 1, 2)]
    second = (products[0] - 8 * products[1] + 8 * products[2] - products[3]) / (12 * step)
    assert float(second.norm()) > 1e-3
    assert float((third - second).norm() / second.norm()) < 1e-6


def test_the_network_is_small_and_learns():
    task = loaded("mnist-cnn-adamw")
    data, settings = validate_data(task), task.training
    assert sum(p.numel() for p in task.build_model(0).parameters()) == 8882
    assert settings is not None
    assert (settings.optimizer, settings.betas, settings.batch_size) == ("adamw", (0.9, 0.95), 64)
    state = train(TrainingRun(task, data, np.arange(3000), 0), [1])[-1].state
    few = take(data["test"], slice(0, 500))
    says = evaluate(task, model_from(task, state), few)
    assert says.prediction is not None
    assert float((says.prediction == few["y"]).float().mean()) > 0.75


def test_the_gpt_has_the_papers_settings_and_its_size():
    task = loaded("sotu-gpt")
    found = task.training
    assert found is not None
    assert (found.num_epochs, found.batch_size, found.learning_rate, found.warmup) == (3, 32, 1e-4, 0.1)
    assert (found.optimizer, found.betas, found.weight_decay, found.schedule) == ("adamw", (0.9, 0.95), 0, "constant")
    assert sum(p.numel() for p in task.build_model(0).parameters()) == 68_928
    data = validate_data(task)
    assert {split: tuple(batch["x"].shape) for split, batch in data.items()} == {
        "train": (4096, CONTEXT),
        "test": (1024, CONTEXT),
    }
    for batch in data.values():
        assert batch["x"].dtype == batch["y"].dtype == torch.int64
        torch.testing.assert_close(batch["x"][:, 1:], batch["y"][:, :-1], rtol=0, atol=0)


def test_the_gpt_sees_nothing_that_comes_later():
    shape = GPTShape(vocabulary=7, context=6, width=8, num_layers=2, num_heads=2)
    torch.manual_seed(0)
    model = GPT(shape)
    symbols = torch.arange(6)[None] % 7
    before = model(symbols)
    symbols[0, 4] = 6
    after = model(symbols)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert (before[:, 4:] != after[:, 4:]).any()
    torch.testing.assert_close(before[:, :3], model(symbols[:, :3]), rtol=1e-5, atol=1e-7)


def test_the_norm_is_pytorchs():
    """Values; its third derivatives are checked above, where PyTorch's own fail."""
    x = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) + 1
    torch.testing.assert_close(LayerNorm(8)(x), torch.nn.LayerNorm(8)(x))


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    own = GPT(GPTShape(7, 6, 8, 1, 2)).blocks[0].attention
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(own.in_proj.weight)
        reference.out_proj.load_state_dict(own.out_proj.state_dict())
    x = torch.randn(3, 6, 8)
    expected = reference(x, x, x, attn_mask=torch.ones(6, 6, dtype=torch.bool).triu(1), need_weights=False)[0]
    torch.testing.assert_close(own(x), expected)


def test_the_loss_is_the_mean_over_symbols_and_counts_against_the_model():
    task = loaded("sotu-gpt")
    batch = take(validate_data(task)["test"], slice(0, 3))
    model = task.build_model(0)
    with torch.no_grad():
        chances = model(batch["x"]).log_softmax(-1).gather(2, batch["y"][..., None])[..., 0]
        torch.testing.assert_close(task.train_loss(model, batch), -chances.mean(1))
        torch.testing.assert_close(task.measurement(model, batch), -chances.mean(1))
    assert task.measurement_sign == -1
    says = evaluate(task, model, batch)
    torch.testing.assert_close(says.goodness, chances.mean(1))
    outputs = torch.zeros(50, 4, 3)
    outputs[:, 1, 2] = 50.0
    drawn = task.sample_targets(outputs, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 4)
    assert bool((drawn[:, 1] == 2).all())
    assert set(drawn[:, 0].tolist()) == {0, 1, 2}


def test_every_seed_starts_from_the_shipped_weights():
    first, second = (loaded("sotu-gpt").build_model(seed).state_dict() for seed in (0, 7))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert shipped_digest("sotu_gpt.safetensors") in loaded("sotu-gpt").source()
    checks = {check.name: check for check in check_task(SotuGPT())}
    assert all(check.passed for check in checks.values()), checks
    assert "same pre-trained weights" in checks["model"].detail
    assert "AdamW" in checks["training route"].detail


def test_check_finds_a_wrong_claim_of_pretrained_weights():
    task = TinyTask()
    task.pretrained = True
    failed = [check for check in check_task(task) if not check.passed]
    assert [check.name for check in failed] == ["model"]
    assert "pretrained = False" in failed[0].detail


def test_fine_tuning_lowers_the_loss_on_other_speeches():
    task = loaded("sotu-gpt")
    data = validate_data(task)
    queries = take(data["test"], slice(0, 200))
    before = evaluate(task, task.build_model(0), queries).goodness
    state = train(TrainingRun(task, data, np.arange(512), 0), [3])[-1].state
    after = evaluate(task, model_from(task, state), queries).goodness
    assert float(before.mean()) > -1.75  # 2.5 bits a character
    assert float(after.mean() - before.mean()) > 0.01


def test_the_text_shown_is_the_text_trained_on():
    task = SotuGPT()
    data = validate_data(task)
    for split, rows in (("train", 4096), ("test", 1024)):
        for index in hashed_rng("shown", split).integers(rows, size=40).tolist():
            shown = task.show(split, index)
            row = take(data[split], slice(index, index + 1))
            assert shown.kind == "text"
            assert shown.text == decode(row["x"][0]) + decode(row["y"][0, -1:])
            named = [s for s in speeches() if f" {s.president}, {s.year}, from character " in shown.caption]
            place = int(shown.caption.rpartition("character ")[2].split()[0]) - 1
            assert any(speech.text[place : place + CONTEXT + 1] == shown.text for speech in named)


def test_queries_are_from_other_speeches_than_the_training_blocks():
    task = loaded("sotu-gpt")
    years = {
        split: {int(task.show(split, index).caption.split(", ")[-2]) for index in range(rows)}
        for split, rows in (("train", 4096), ("test", 1024))
    }
    assert not years["train"] & years["test"]
    assert min(min(each) for each in years.values()) >= FIRST_MODERN_YEAR
    assert len(years["test"]) == 9
    texts = [task.show("train", index).text for index in range(4096)]
    assert len(set(texts)) > 4080  # "[Applause]" and thanks may repeat, a block as a whole hardly ever


def test_the_shipped_text():
    found = speeches()
    assert len(found) == 74
    assert [speech.year for speech in found] == sorted(speech.year for speech in found)
    assert {found[0].president, found[-1].president} == {"Franklin D. Roosevelt", "Joseph R. Biden Jr."}
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 96
    text = found[40].text
    assert decode(encode(text)) == text
    assert sum(len(speech.text) for speech in found) == pytest.approx(2.42e6, rel=0.01)


def test_blocks_start_at_words_and_do_not_overlap():
    text = speeches()[50].text
    starts = block_starts(text, CONTEXT)
    assert starts[0] == 0
    assert all(text[start - 1].isspace() for start in starts[1:])
    assert all(b - a >= CONTEXT for a, b in pairwise(starts))
    assert starts[-1] + CONTEXT + 1 <= len(text)
    assert block_starts("ab cdef gh", 3) == [0, 3]
