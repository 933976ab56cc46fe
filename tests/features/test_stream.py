"""Per-example gradients of any layer in one pass, against autograd one example at a time, and their projections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.probe import Probe
from tda_backend.numerics.features import structured
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks, project_gradients
from tda_backend.numerics.features.per_example import contributions as contributions_module
from tda_backend.numerics.features.per_example import stream as stream_module
from tda_backend.numerics.features.per_example import sums as sums_module
from tda_backend.numerics.features.per_example.stream import GradientStream, NamedContributions
from tda_backend.numerics.features.projection import Projection, random_rows
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching
from tests.features.models_of_any_layer import EXPLAINED, GPT, JOINED, Recurrent, TokenClasses, example
from tests.features.test_structured import sparse_matrix
from tests.helpers_numerics import NUM_CLASSES, ClassificationExample, assert_close, dense_gradients, split_probe

ROWS = (3, 0, 7, 11, 5, 2, 9, 1, 4, 6, 8)
ALL = {**EXPLAINED, **{name: task for name, (task, _) in JOINED.items()}}


class Gathered:
    """Puts the pieces of a parameter's gradients together, and checks where they are cut."""

    def __init__(self, values: Tensor, block: int = 1) -> None:
        self.values, self.block = values, block

    def add(self, first: int, values: Tensor) -> None:
        self.values[:, first : first + values.shape[1]] += values

    def add_rows(self, first: int, index: Tensor, values: Tensor) -> None:
        for number, (rows, parts) in enumerate(zip(index.tolist(), values, strict=True)):
            for row, part in zip(rows, parts, strict=True):
                self.values[number, first + row * len(part) : first + (row + 1) * len(part)] += part


def gathered(task, model, rows=ROWS, block=1, **others) -> Tensor:
    """Return per-example gradients ``[N, p]`` as the stream gives them."""
    probe = split_probe(task, model, task.datasets()["train"], rows, **others)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    result = torch.zeros(len(rows), sum(sizes.values()), dtype=probe.dtype)
    starts = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))

    def gather(part: slice, gradients: NamedContributions) -> None:
        for name, contributions in gradients:
            sink = Gathered(result[part, starts[name] : starts[name] + sizes[name]], block)
            for contribution in contributions:
                contribution.give(sink)

    list(GradientStream(probe, "train", "train_loss").each(gather))
    return result


@pytest.fixture
def joined(monkeypatch) -> set[str]:
    """Collect the parameters that were differentiated by vmap."""
    names: set[str] = set()
    original = stream_module.differentiator

    def spied(probe: Probe, quantity: Any, chosen: Any):
        names.update(chosen)
        return original(probe, quantity, chosen)

    monkeypatch.setattr(stream_module, "differentiator", spied)
    return names


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("batch_size", [4, 64])
def test_gradients_equal_autograd_one_by_one(name: str, batch_size: int, joined: set[str]):
    task = ALL[name]
    model = task.build_model(0)
    actual = gathered(task, model, batch_size=batch_size)
    assert_close(actual, dense_gradients(task, model, task.datasets()["train"], ROWS, "train_loss"), 1e-10)
    assert joined == (JOINED[name][1] if name in JOINED else set())


@given(
    axes=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    dilation=st.tuples(*[st.integers(1, 3)] * 3),
    extra=st.tuples(*[st.integers(0, 2)] * 3),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_of_any_setting_equal_autograd(
    axes, transposed, groups, kernel, stride, padding, dilation, extra, bias
):
    kind = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    moving = {"stride": stride[:axes], "padding": padding[:axes], "dilation": dilation[:axes]}
    if transposed:
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        moving["output_padding"] = tuple(min(e, m) for e, m in zip(extra[:axes], most, strict=False))
    layer = kind[axes - 1 + 3 * transposed](4, 8, kernel[:axes], groups=groups, bias=bias, **moving)
    shape = (4, *(7, 5, 4)[:axes])
    try:
        task = example("any", layer, nn.Tanh(), shape=shape)
        model = task.build_model(0)
    except RuntimeError:
        reject()  # the kernel is larger than the input
    assume(model[2].in_features > 0)
    rows = range(5)
    expected = dense_gradients(task, model, task.datasets()["train"], rows, "train_loss")
    assert_close(gathered(task, model, rows), expected, 1e-10)


@pytest.mark.parametrize("name", ["gpt", "bert", "lstm", "depthwise", "conv1d", "twice", "elsewhere"])
@pytest.mark.parametrize("slab", [1, 90])
def test_pieces_are_cut_where_blocks_end_and_add_up(name: str, slab: int, monkeypatch):
    monkeypatch.setattr(contributions_module, "SLAB_NUMBERS", slab)
    task = ALL[name]
    model = task.build_model(0)
    whole = gathered(task, model)

    for block in (1, 11):
        assert_close(gathered(task, model, block=block), whole, 1e-12)


@pytest.mark.parametrize("name", ["gpt", "gpt with a table", "bert", "lstm", "twice", "merged", "cnn with batch norm"])
def test_rows_do_not_depend_on_order_company_or_the_budget(name: str):
    task = ALL[name]
    model = task.build_model(0)
    requests = [Request("train", "goodness"), Request("query", "train_loss")]

    def features(rows, queries, budget=2**26, **others) -> tuple[Tensor, Tensor]:
        probe = Probe(task, model, task.datasets(), rows, query=queries, **others)
        projected = project_gradients(probe, requests, Projection("sparse", 12, 1), budget_numbers=budget)
        return projected[: len(rows)], projected[len(rows) :]

    train, query = features(range(14), range(9))
    for order in ([13, 2, 5], [7], list(range(13, -1, -1))):
        assert_close(features(order, [4, 1])[0], train[order], 1e-12)
    for budget in (1, 3000, 20_000):
        assert_close(features(range(14), range(9), budget)[0], train, 1e-12)
    for batch_size in (1, 3, 9):
        assert_close(features(range(14), range(9), batch_size=batch_size)[1], query, 1e-12)


def slow_features(probe: Probe, requests, projection: Projection, rows: int) -> Tensor:
    """Project dense blocks by a matrix that is written out: what took a pass for each block."""
    total = torch.zeros(1, projection.max_dim, dtype=torch.float64)
    sizes = {name: p.numel() for name, p in probe.model.named_parameters()}
    for block in dense_gradient_blocks(probe, requests):
        size = sizes[block.parameter]
        for index, start in enumerate(range(0, size, rows)):
            num = min(rows, size - start)
            if projection.kind == "sparse":
                codes = structured.signed_buckets(projection.max_dim, projection.seed, block.parameter, index, num)
                matrix = sparse_matrix(codes, projection.max_dim)
            else:
                matrix = random_rows(projection, block.parameter, index, num).double() / projection.max_dim**0.5
            total = total + block.values[:, start : start + num] @ matrix
    return total


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian-dense"])
@pytest.mark.parametrize("name", ["gpt", "bert", "lstm", "padding", "bag mean", "depthwise", "cross attention"])
@pytest.mark.parametrize("rows", [2048, 11])
def test_projections_are_those_of_dense_blocks(name: str, kind: Any, rows: int, monkeypatch):
    monkeypatch.setattr(sums_module, "PARAMETER_ROWS", rows)  # hashed blocks that cut through rows of a weight
    monkeypatch.setattr(contributions_module, "SLAB_NUMBERS", 50)
    task = ALL[name]
    probe = Probe(task, task.build_model(0), task.datasets(), range(11), query=[2, 0], batch_size=5)
    requests = [Request("train", "goodness"), Request("query", "train_loss")]
    projection = Projection(kind, 12, seed=2)
    features = project_gradients(probe, requests, projection)
    assert features.dtype == torch.float64
    assert_close(features, slow_features(probe, requests, projection, rows), 1e-10)


def test_a_table_of_many_blocks_draws_only_those_that_are_looked_up(monkeypatch):
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5000, 3)  # a row lies across the end of a block

        def forward(self, tokens: Tensor) -> Tensor:
            return self.table(tokens * 683).sum(1)

    drawn: list[int] = []

    def spied(projection: Projection, group: str, block: int, num_rows: int) -> Tensor:
        drawn.append(block)
        return random_rows(projection, group, block, num_rows)

    monkeypatch.setattr(sums_module, "random_rows", spied)
    task = TokenClasses("wide", Wide)
    probe = Probe(task, task.build_model(0), task.datasets(), range(6))
    projection = Projection("rademacher", 8, seed=0)
    features = project_gradients(probe, [Request("train", "goodness")], projection)
    assert_close(features, slow_features(probe, [Request("train", "goodness")], projection, 2048), 1e-10)
    assert set(drawn) == {0, 1, 2, 3, 4, 5, 6}
    assert len(drawn) == 7


def test_float32_features_agree_with_float64():
    task = ALL["gpt"]
    requests, projection = [Request("train", "goodness")], Projection("sparse", 32, 0)
    wide = project_gradients(Probe(task, task.build_model(0), task.datasets(), range(20)), requests, projection)
    probe = Probe(task, task.build_model(0).float(), task.datasets(), range(20))
    narrow = project_gradients(probe, requests, projection)
    assert narrow.dtype == torch.float32
    assert_close(narrow, wide, 1e-4)


def test_half_precision_inside_the_model_is_no_contradiction(joined: set[str]):
    class Half(GPT):
        def forward(self, tokens: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(tokens).float()

    task = TokenClasses("half", Half)
    model = task.build_model(0).float()
    actual = gathered(task, model)
    assert actual.dtype == torch.float32
    assert_close(actual, dense_gradients(task, model, task.datasets()["train"], ROWS, "train_loss"), 0.05)
    assert not joined


def test_one_pass_over_the_rows_whatever_the_size_of_the_model():
    """A parameter block at a time, this model took a pass for each."""

    class Counting(GPT):
        seen = 0

        def forward(self, tokens: Tensor) -> Tensor:
            Counting.seen += len(tokens)
            return super().forward(tokens)

    task = TokenClasses("counting", Counting)
    probe = Probe(task, task.build_model(0), task.datasets(), range(24), batch_size=6)
    Counting.seen = 0
    project_gradients(probe, [Request("train", "goodness")], Projection("sparse", 16, 0), budget_numbers=24_000)
    assert Counting.seen == 24 + 2  # two rows before, from which the size of a batch follows


@pytest.mark.parametrize("name", ["gpt", "cnn with batch norm", "bert"])
def test_what_a_batch_records_stays_below_the_budget(name: str, monkeypatch):
    held: list[tuple[int, int]] = []
    original = GradientStream._forward

    def spied(self, batch):
        recorder, values = original(self, batch)
        held.append((len(values), recorder.numbers))
        return recorder, values

    monkeypatch.setattr(GradientStream, "_forward", spied)
    task = ALL[name]
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(24))

    def batches_of(budget: int) -> list[tuple[int, int]]:
        held.clear()
        list(GradientStream(probe, "train", "train_loss", budget).each(lambda _, gradients: len(list(gradients))))
        return held[1:]

    each = batches_of(2**26)[0][1] // 8
    assert [size for size, _ in batches_of(2**26)] == [8, 16]
    for budget in (3 * each, 5 * each + each // 2):
        found = batches_of(budget)
        assert max(numbers for _, numbers in found) <= budget
        assert found[0][0] == budget // each


def test_gradients_that_join_by_vmap_stay_below_the_budget(monkeypatch):
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1000, 4))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.table[tokens].sum(1)

    task = TokenClasses("indexed", Indexed)
    probe = Probe(task, task.build_model(0), task.datasets(), range(24))
    stream = GradientStream(probe, "train", "goodness", budget_numbers=12_000)

    def joined(rows: slice, gradients: NamedContributions) -> list[tuple[int, int]]:
        return [(rows.stop - rows.start, contributions[0].values.numel()) for _, contributions in gradients]

    sizes = [size for _, found in stream.each(joined) for size in found]
    assert sizes == [(8, 32_000), *[(3, 12_000)] * 5, (1, 4000)]


class Interacting(nn.Module):
    """Every example sees the batch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        return hidden - 0.5 * hidden.mean(0)


class OwnStatistics(nn.Module):
    """A BatchNorm that has no statistics but the batch's, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x) if len(x) > 1 else x)


@pytest.mark.parametrize("build", [Interacting, OwnStatistics])
def test_examples_that_interact_are_refused(build):
    task = ClassificationExample("interacting", build)
    with pytest.raises(TaskError, match=r"do not add up to a batch's in .*weight"):
        gathered(task, task.build_model(0))


class Divided(ClassificationExample):
    """Losses over the number of examples in the batch whose first input is positive, and three."""

    def train_loss(self, model, batch) -> Tensor:
        return super().train_loss(model, batch) / (3 + (batch["x"][:, 0] > 0).sum())


class Noisy(ClassificationExample):
    """Losses times weights that are drawn anew for each pass."""

    def train_loss(self, model, batch) -> Tensor:
        return super().train_loss(model, batch) * torch.rand_like(batch["x"][:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_that_depend_on_the_batch_are_refused(dtype: torch.dtype):
    task = Divided("divided", lambda: nn.Linear(6, NUM_CLASSES))
    for split in task.datasets().values():
        split["x"] = split["x"].to(dtype)
    with pytest.raises(
        TaskError, match=r"train_loss \(train\) of the same examples is .* in a batch of 2 .* in a batch of 8"
    ):
        gathered(task, task.build_model(0).to(dtype))
    assert gathered(task, task.build_model(0).to(dtype), batch_size=1).shape == (len(ROWS), 21)


def test_values_that_are_random_are_not_taken_for_interaction():
    task = Noisy("noisy", lambda: nn.Linear(6, NUM_CLASSES))
    assert gathered(task, task.build_model(0)).abs().sum(1).gt(0).all()


class SecondAxis(nn.Module):
    """Examples in the second axis, which no rule tells from positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(0, 1)).square().sum(0)


@pytest.mark.parametrize("length", [8, 5])
def test_examples_in_another_axis_join_by_vmap(length: int, joined: set[str]):
    task = ClassificationExample("second", SecondAxis, shape=(length, 4))
    model = task.build_model(0)
    actual = gathered(task, model)
    assert_close(actual, dense_gradients(task, model, task.datasets()["train"], ROWS, "train_loss"), 1e-10)
    assert joined == {"linear.weight", "linear.bias"}


class Switching(nn.Module):
    """From the second batch on, positions are as many as examples, and another layer takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(8, 4)
        self.first, self.second = nn.Linear(4, NUM_CLASSES), nn.Linear(4, NUM_CLASSES)
        self.scale = nn.Parameter(torch.ones(NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x + self.positions(torch.arange(x.shape[1])))
        hidden = self.first(x) + self.second(x) if bool((x[:, 0, 0] > 0).any()) else self.first(x)
        scaled = torch.einsum("bti,i->bti", hidden, self.scale) if bool((x[:, 0, 0] > 0).any()) else hidden
        return scaled.mean(1)


def test_a_later_batch_that_makes_other_calls_is_right_too():
    task = ClassificationExample("switching", Switching, shape=(3, 4), num_train=24)
    data = task.datasets()["train"]
    data["x"][:8, 0, 0] = -30.0
    data["x"][8:, 0, 0] = 30.0
    model = task.build_model(0)
    for batch_size in (8, 4):
        actual = gathered(task, model, range(24), batch_size=batch_size)
        assert_close(actual, dense_gradients(task, model, data, range(24), "train_loss"), 1e-10)


class Later(nn.Module):
    """On the first eight rows, whose first input is −1, a layer does nothing that no rule explains."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.linear, self.head, self.way = nn.Linear(6, 6), nn.Linear(6, NUM_CLASSES), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "sorted":
            order = x[:, 0].argsort(stable=True)
            return self.head(torch.tanh(self.linear(x[order]))[order.argsort()])
        if self.way == "selected":
            order = x[:, 0].sort(stable=True).indices
            hidden = torch.tanh(self.linear(x.index_select(0, order)))
            return self.head(torch.zeros_like(x).index_copy(0, order, hidden))
        if self.way == "in an order of numbers":
            keys = x[:, 0].tolist()
            order = sorted(range(len(keys)), key=keys.__getitem__)
            return self.head(torch.tanh(self.linear(x[order]))[[order.index(i) for i in range(len(keys))]])
        if self.way == "rows that are chosen":  # two of an example's three positions, on average only in later batches
            chosen = torch.stack([x[:, 0] < 9, x[:, 0].abs() > 0.5, x[:, 0] > 1.7], 1)
            x = x[:, None] * torch.tensor([[1.0], [2.0], [3.0]], dtype=x.dtype)
            hidden = torch.zeros_like(x)
            hidden[chosen] = torch.tanh(self.linear(x[chosen]))
            return self.head(hidden.sum(1))
        used = (x[:, :1] > 0).to(x.dtype)  # "again"
        return self.head(torch.tanh(self.linear(x)) + used * torch.einsum("bi,oi->bo", x, self.linear.weight))


@pytest.mark.parametrize("way", ["sorted", "selected", "in an order of numbers", "rows that are chosen", "again"])
def test_what_only_later_batches_show_is_right_too(way: str):
    task = ClassificationExample("later", lambda: Later(way))
    data = task.datasets()["train"]
    data["x"][:8, 0] = -1.0
    data["x"][8:, 0] = torch.tensor([2.0, 0.1, -1.0, 1.5] * 4)
    model = task.build_model(0)
    for batch_size in (64, 8, 4):
        actual = gathered(task, model, range(24), batch_size=batch_size)
        assert_close(actual, dense_gradients(task, model, data, range(24), "train_loss"), 1e-10)


def test_a_course_that_was_checked_is_not_checked_again(monkeypatch):
    checked: list[int] = []
    original = GradientStream._unexplained

    def spied(self, done, names, batch):
        checked.append(len(batch["x"]))
        return original(self, done, names, batch)

    monkeypatch.setattr(GradientStream, "_unexplained", spied)
    for name in ("untied gpt", "cnn with batch norm", "bert"):
        checked.clear()
        task = ALL[name]
        gathered(task, task.build_model(0), range(24), batch_size=4)
        assert checked == [4]


def test_a_gradient_of_zero_is_no_contradiction():
    """Keys' bias does not change attention: all that is left of its gradient is rounding, which reproduces nothing."""

    class Keys(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(4, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(2)
            return self.head((weights @ self.value(x)).mean(1))

    task = ClassificationExample("keys", Keys, shape=(5, 4))
    model = task.build_model(0).float()
    task._data = {
        s: {k: v.float() if v.is_floating_point() else v for k, v in d.items()} for s, d in task._data.items()
    }
    actual = gathered(task, model)
    assert_close(actual, dense_gradients(task, model, task.datasets()["train"], ROWS, "train_loss"), 1e-5)


def test_a_gradient_that_is_not_finite_names_its_parameter_and_row():
    task = ClassificationExample("nan", lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, NUM_CLASSES)))
    task.datasets()["train"]["x"][13] = torch.inf
    probe = replace(split_probe(task, task.build_model(0), task.datasets()["train"], range(16)), batch_size=4)
    with pytest.raises(NumericalError, match=r"1 of 4 examples.*'0\.weight'.*row 13"):
        project_gradients(probe, [Request("train", "goodness")], Projection("sparse", 4, 0))


def test_modes_are_left_as_they_were_and_memory_is_a_batch():
    task = ALL["bert"]
    model = task.build_model(0).train()
    stream = GradientStream(split_probe(task, model, task.datasets()["train"], range(9)), "train", "goodness")

    def count(rows: slice, gradients: NamedContributions) -> int:
        assert not model.training
        with torch.no_grad():
            return sum(len(parts) for _, parts in gradients)

    _, found = next(stream.each(count))
    assert found >= sum(1 for _ in model.parameters())
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("build", [GPT, Recurrent])
def test_a_value_without_gradient_is_named(build, batch_size: int):
    class Severed(build):
        def forward(self, tokens: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(tokens)

    task = TokenClasses("severed", Severed)
    with pytest.raises(TaskError, match="no_grad"):
        gathered(task, task.build_model(0), batch_size=batch_size)


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
@pytest.mark.parametrize("name", ["untied gpt", "bert", "bag mean", "conv3d", "cnn with batch norm", "merged"])
def test_another_device_gives_the_same_and_does_the_work(name: str, kind: Any):
    task, requests, projection = ALL[name], [Request("train", "train_loss")], Projection(kind, 12, 0)
    expected = project_gradients(Probe(task, task.build_model(0), task.datasets(), range(11)), requests, projection)
    model = task.build_model(0)
    with watching() as watch:
        probe = Probe(task, model, task.datasets(), range(11), device=STAND_IN)
        found = project_gradients(probe, requests, projection)
        assert found.device.type == STAND_IN
        assert_close(found.cpu(), expected, 1e-10)
    assert watch.cpu == 0, watch.most
