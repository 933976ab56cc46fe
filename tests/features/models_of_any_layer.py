"""Models with every kind of layer, for tests of per-example gradients; small, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.features.test_layers import CrossAttention, encoder
from tests.helpers_numerics import NUM_CLASSES, TASKS, ClassificationExample


class TokenClasses(ClassificationExample):
    """Classification of token sequences; the vocabulary has 7 words."""

    def __init__(self, name: str, build: Callable[[], nn.Module], length: int = 6) -> None:
        super().__init__(name, build, shape=(length,))
        generator = torch.Generator().manual_seed(3)
        for split in self._data.values():
            split["x"] = torch.randint(0, 7, (len(split["y"]), length), generator=generator)


def headed(*layers: nn.Module, shape: Sequence[int]) -> Callable[[], nn.Module]:
    """Return a builder of copies of some layers with a Linear head."""

    def build() -> nn.Module:
        body = nn.Sequential(*(copy.deepcopy(layer) for layer in layers))
        for parameter in body.parameters():
            nn.init.normal_(parameter, 0.2, 0.5)
        with torch.no_grad():
            size = body.eval()(torch.zeros(2, *shape, dtype=next(body.parameters()).dtype)).shape[1:].numel()
        return nn.Sequential(body, nn.Flatten(), nn.Linear(size, NUM_CLASSES))

    return build


def example(name: str, *layers: nn.Module, shape: Sequence[int]) -> ClassificationExample:
    """Return the task of some layers with a head."""
    return ClassificationExample(name, headed(*layers, shape=shape), shape=shape)


class Pooled(nn.Module):
    """A table whose rows are averaged or summed, with a head."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(7, 4, **settings)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(tokens)))


class WeightedBag(Pooled):
    """Rows with weights of their own for each example."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens, per_sample_weights=tokens.to(self.table.weight.dtype).add(1).sqrt()))


class Offsets(Pooled):
    """Bags given by offsets, which no rule explains."""

    def forward(self, tokens: Tensor) -> Tensor:
        starts = torch.arange(0, tokens.numel(), tokens.shape[1], device=tokens.device)
        return self.head(self.table(tokens.flatten(), starts))


class Looked(nn.Module):
    """An Embedding whose padding row has no gradient."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4, **settings)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(tokens)).mean(1))


class Conv1D(nn.Module):
    """A Linear layer as some language models write it: ``addmm`` of folded positions, with a transposed weight."""

    def __init__(self, num_outputs: int, num_inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.randn(num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class CausalBlock(nn.Module):
    """Masked self-attention and a feed-forward layer, both behind a norm."""

    def __init__(self, width: int, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = Conv1D(3 * width, width), Conv1D(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.before(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.narrow(F.gelu(self.wide(self.behind(x))))


class GPT(nn.Module):
    """Tokens and learned positions, causal blocks, and a head tied with the tokens' table or of its own."""

    def __init__(self, length: int = 6, width: int = 8, positions: str = "embedding", tied: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, width)
        self.kind = positions
        if positions in ("embedding", "expanded"):
            self.positions = nn.Embedding(length + 2, width)
        else:
            self.table = nn.Parameter(torch.randn(1, length + 2, width))
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 7, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens)
        if self.kind == "embedding":
            x = x + self.positions(places)
        elif self.kind == "expanded":
            x = x + self.positions(places[None].expand(len(tokens), -1))
        else:
            x += self.table[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).mean(1)[:, :NUM_CLASSES]


class Bert(nn.Module):
    """A class token before pooled pairs of tokens, positions, and packed attention."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.pairs = nn.EmbeddingBag(7, width, mode="sum", padding_idx=2)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(4, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.randn(width))
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.pairs(tokens.reshape(-1, 2)).unflatten(0, (len(tokens), -1))
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.scale * self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x)[:, 0])


class Recurrent(nn.Module):
    """An LSTM over embedded tokens."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.tokens(tokens))[0][:, -1])


class CNN(nn.Module):
    """Convolutions with BatchNorm whose statistics are not trivial, and activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3, 0.0])
        self.norm.running_var = torch.tensor([0.5, 1.5, 2.0, 1.0])
        self.out = nn.Linear(16, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)), inplace=True)
        return self.out(torch.relu_(self.depthwise(x)).flatten(1))


class LoRA(nn.Module):
    """A frozen weight with a low-rank addition, its two factors as plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5)
        self.base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 6))
        self.up = nn.Parameter(torch.randn(5, 2))
        self.head = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.base(x) + 0.5 * (x @ self.down.T) @ self.up.T))


class Elsewhere(nn.Module):
    """A weight of a Linear layer that is also used in a way which no rule explains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("bi,oi->bo", x.square(), self.linear.weight)
        return self.head(torch.tanh(self.linear(x)) + 0.1 * hidden)


class Scaled(nn.Module):
    """Cosines with one vector for each class, and scales that are one number: parameters without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(NUM_CLASSES, 6))
        self.scale, self.temperature = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        cosines = F.cosine_similarity(x[:, None], self.classes, dim=2)
        return self.scale.exp() * cosines / self.temperature


class Merged(nn.Module):
    """A weight that is computed from parameters, and positions that a small network makes of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(5, 4))
        self.gain = nn.Parameter(torch.randn(5, 1))
        self.places = nn.Linear(1, 4)
        self.head = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        x = x - torch.tanh(self.places(numbers))
        return self.head(F.linear(x, self.base * self.gain).tanh().mean(1))


class Grid(nn.Module):
    """Positions of rows and columns, added to each other first; as many rows as a first batch has examples."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Parameter(torch.randn(8, 1, 3)), nn.Parameter(torch.randn(1, 2, 3))
        self.head = nn.Linear(3, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x - (self.rows + self.columns)).mean((1, 2)))


class Custom(torch.autograd.Function):
    """A function whose calls are not seen."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(context, grad):
        (x,) = context.saved_tensors
        return 3 * x**2 * grad


class Unseen(nn.Module):
    """A custom function between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, NUM_CLASSES)
        self.shift = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Custom.apply(self.first(x)) * self.shift)


class Twice(nn.Module):
    """One layer called twice, once by hand, behind activations in place; a factor that all outputs share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.head = nn.Linear(6, NUM_CLASSES)
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu_(self.first(x))
        hidden = F.linear(hidden, self.first.weight, bias=self.first.bias).mul_(2)
        return self.head(hidden) * self.temperature


def _transposed(kind: type[nn.Module], shape: Sequence[int], **settings) -> ClassificationExample:
    return example(f"{kind.__name__} {settings}", kind(4, 6, **settings), nn.Tanh(), shape=(4, *shape))


EXPLAINED: dict[str, ClassificationExample] = {
    each.name: each
    for each in (
        example("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), nn.ReLU(True), shape=(4, 9)),
        example("conv1d same", nn.Conv1d(4, 5, 4, padding="same"), nn.Tanh(), shape=(4, 7)),
        example("conv2d", nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)), nn.ReLU(True), shape=(2, 5, 4)),
        example("conv2d circular", nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Tanh(), shape=(2, 4, 4)),
        example("depthwise", nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Tanh(), shape=(4, 4, 5)),
        example("conv3d", nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), groups=2), nn.Tanh(), shape=(2, 3, 5, 2)),
        _transposed(nn.ConvTranspose1d, (5,), kernel_size=3),
        _transposed(nn.ConvTranspose1d, (4,), kernel_size=2, stride=3, output_padding=2, dilation=2, groups=2),
        _transposed(nn.ConvTranspose2d, (3, 2), kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        _transposed(nn.ConvTranspose2d, (3, 2), kernel_size=2, dilation=3, output_padding=2, groups=2),
        _transposed(nn.ConvTranspose3d, (2, 3, 2), kernel_size=2, stride=2, padding=1, output_padding=1),
        example("layer norm", nn.Linear(4, 4), nn.LayerNorm((3, 4)), nn.Tanh(), shape=(3, 4)),
        example("layer norm without bias", nn.LayerNorm(4, bias=False), nn.Tanh(), shape=(2, 3, 4)),
        example("rms norm", nn.Linear(4, 6), nn.RMSNorm(6), nn.Tanh(), shape=(3, 4)),
        example("group norm", nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), shape=(2, 4)),
        example("instance norm", nn.InstanceNorm2d(2, affine=True), nn.Tanh(), shape=(2, 4, 3)),
        example("batch norm", nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), shape=(4,)),
        example("batch norm 3d", nn.BatchNorm3d(2), nn.Tanh(), shape=(2, 2, 3, 2)),
        TokenClasses("embedding", Looked),
        TokenClasses("padding", lambda: Looked(padding_idx=-3)),
        TokenClasses("sparse embedding", lambda: Looked(sparse=True)),
        TokenClasses("bag mean", Pooled),
        TokenClasses("bag mean with padding", lambda: Pooled(padding_idx=1)),
        TokenClasses("bag sum", lambda: Pooled(mode="sum", padding_idx=-1)),
        TokenClasses("weighted bag", lambda: WeightedBag(mode="sum", padding_idx=3)),
        example("folded", Conv1D(5, 4), nn.Tanh(), Conv1D(3, 5), shape=(3, 4)),
        ClassificationExample("lora", LoRA),
        ClassificationExample("twice", Twice),
        ClassificationExample("unseen", Unseen),
        ClassificationExample("cnn with batch norm", CNN, shape=(2, 4, 4)),
        TokenClasses("gpt", GPT),
        TokenClasses("gpt with expanded positions", lambda: GPT(positions="expanded")),
        TokenClasses("gpt with a table", lambda: GPT(positions="table")),
        TokenClasses("untied gpt", lambda: GPT(tied=False)),
        TokenClasses("bert", Bert),
        ClassificationExample("grid", Grid, shape=(8, 2, 3)),
        ClassificationExample("cross attention", CrossAttention, shape=(3, 4)),
        ClassificationExample("three inputs", lambda: CrossAttention(False, bias=False), shape=(3, 4)),
        ClassificationExample("batch second", lambda: CrossAttention(batch_first=False), shape=(3, 4)),
        ClassificationExample("separate", lambda: CrossAttention(kdim=3, vdim=3), shape=(3, 4)),
        ClassificationExample("encoder", encoder, shape=(3, 4)),
        *(TASKS[name] for name in ("mlp", "positions", "conv", "cnn", "transformer")),
    )
    if isinstance(each, ClassificationExample)
}
"""Models whose gradients all follow from what their calls record."""

JOINED: dict[str, tuple[ClassificationExample, set[str]]] = {
    "lstm": (TokenClasses("lstm", Recurrent), {f"lstm.{side}_{k}h_l0" for side in ("weight", "bias") for k in "ih"}),
    "elsewhere": (ClassificationExample("elsewhere", Elsewhere), {"linear.weight"}),
    "merged": (ClassificationExample("merged", Merged, shape=(3, 4)), {"base", "gain"}),
    "offsets": (TokenClasses("offsets", Offsets), {"table.weight"}),
    "largest in a bag": (TokenClasses("max", lambda: Pooled(mode="max")), {"table.weight"}),
    "scaled": (ClassificationExample("scaled", Scaled), {"classes", "temperature"}),
    "prelu": (example("prelu", nn.Linear(4, 4), nn.PReLU(4), shape=(4,)), {"0.1.weight"}),
}
"""Models with parameters that join by vmap, and which."""
