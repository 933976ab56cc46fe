"""Language models of the shipped State of the Union messages: one example is a block of characters."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.errors import DataError
from tda_backend.models.tasks.base import initialised
from tda_backend.models.tasks.built_in.adaptive import PAPER_BETAS
from tda_backend.models.tasks.built_in.gpt import GPT, GPTShape
from tda_backend.models.tasks.data import shipped_bytes, shipped_digest
from tda_backend.seeds import hashed_rng
from tda_backend.types import Batch, Display, Task, TrainingSettings

VOCABULARY = "\n" + "".join(chr(code) for code in range(32, 127))
"""The model's symbols, by number: line break and printable ASCII, 96 in all."""
CONTEXT = 64
SOTU_SHAPE = GPTShape(vocabulary=len(VOCABULARY), context=CONTEXT, width=48, num_layers=2, num_heads=4)
FIRST_MODERN_YEAR = 1982
NUM_TRAIN, NUM_TEST = 4096, 1024
_SPEECHES, _WEIGHTS = "sotu.txt.xz", "sotu_gpt.safetensors"


@dataclass(frozen=True)
class Speech:
    """One message: its year, the president's name, and its text in the symbols of ``VOCABULARY``."""

    year: int
    president: str
    text: str


@cache
def speeches() -> tuple[Speech, ...]:
    """Return the shipped messages by date: 1934–1969 and 1982–2024.

    Raises:
        DataError: The file is missing, damaged, or holds another symbol than those of ``VOCABULARY``.
    """
    whole = lzma.decompress(shipped_bytes(_SPEECHES)).decode("ascii")
    found = []
    for record in whole.split("\f")[1:]:
        title, text = record.split("\n", 1)
        date, president = title.split("\t")
        found.append(Speech(int(date[:4]), president, text.rstrip("\n")))
        strange = set(text) - set(VOCABULARY)
        if strange:
            raise DataError(f"{_SPEECHES} holds {sorted(strange)}.", "Make it again with data/make_text.py.")
    return tuple(found)


def encode(text: str) -> Tensor:
    """Return the numbers of a text's symbols, int64 ``[len]``."""
    codes = np.zeros(128, dtype=np.int64)
    codes[[ord(symbol) for symbol in VOCABULARY]] = np.arange(len(VOCABULARY))
    return torch.from_numpy(codes[np.frombuffer(text.encode("ascii"), dtype=np.uint8)])


def decode(symbols: Tensor) -> str:
    """Return the text of symbols ``[t]``."""
    return "".join(VOCABULARY[number] for number in symbols.tolist())


def block_starts(text: str, length: int) -> list[int]:
    """Return where blocks of ``length`` + 1 characters start that follow each other, each at the start of a word."""
    starts, place = [], 0
    while place + length + 1 <= len(text):
        starts.append(place)
        place += length
        while place < len(text) and not text[place - 1].isspace():
            place += 1
    return starts


class LanguageTask(Task):
    """Next-symbol prediction: the mean cross-entropy of a block's symbols, as training loss and as measurement.

    METHODS.md §0: the measurement of language modelling is the sequence loss, so that ``measurement_sign`` is −1. A
    subclass gives ``name``, ``training``, :meth:`datasets` with keys ``x`` and ``y``, int64 ``[N, t]`` each, y the
    symbols that follow those of x, and :meth:`build_model`, whose model gives ``[b, t, symbols]``.
    """

    measurement_sign = -1

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the next symbol's logits at every position, ``[b, t, symbols]``."""
        return model(batch["x"])

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean over positions of −log p of the symbol that follows, ``[b]``, in nats."""
        targets = batch[self.label_key]
        each = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return each.unflatten(0, targets.shape).mean(1)

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of each block, ``[b]``, in nats per symbol."""
        return self.output_loss(self.outputs(model, batch), batch)

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the same as :meth:`train_loss`."""
        return self.train_loss(model, batch)

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return symbols drawn from the model at every position, given the block's own text before it, ``[b, t]``."""
        drawn = torch.multinomial(outputs.flatten(0, 1).softmax(dim=1), 1, generator=generator)
        return drawn.view(outputs.shape[:2])


class SotuGPT(LanguageTask):
    """A GPT of 68 928 parameters, pre-trained on messages of 1934–1969, fine-tuned on those of 1982–2024.

    Two layers of width 48 with 4 heads over 64 characters; AdamW 1e-4, betas 0.9 and 0.95, no weight decay, 10 %
    warm-up, 3 epochs, batch 32, as arXiv 2605.18814 (AdamW-influence) fine-tunes GPT-2 (learning rates 1e-4, 5e-5 and
    1e-5; 512 blocks). ``build_model`` starts from the shipped weights whatever the seed: a training seed decides only
    the order of the examples, and models of several seeds differ by it alone.

    Fine-tuned on 512 blocks it goes from 2.370 to 2.316 bits a character on the test blocks (5e-5: 2.329, 1e-5: 2.354),
    and 80 % of them get better; from 2.295 to 2.179 on the blocks themselves.

    4 096 training and 1 024 test blocks of 64 characters and the one that follows; test blocks are from every fourth
    message, training blocks from the others, both in a fixed random order.
    """

    name = "sotu-gpt"
    pretrained = True
    training = TrainingSettings(
        num_epochs=3, batch_size=32, learning_rate=1e-4, optimizer="adamw", betas=PAPER_BETAS, warmup=0.1
    )

    def __init__(self) -> None:
        self._datasets: dict[str, Any] | None = None

    def datasets(self) -> dict[str, Any]:
        """Return both splits as dicts of ``x`` and ``y``, int64 ``[N, 64]``; made once."""
        if self._datasets is None:
            made = {}
            for split in ("train", "test"):
                blocks = torch.stack([encode(self.text(split, index)) for index in range(len(_blocks(split)))])
                made[split] = {"x": blocks[:, :-1].contiguous(), "y": blocks[:, 1:].contiguous()}
            self._datasets = made
        return self._datasets

    def build_model(self, seed: int) -> nn.Module:
        """Return the pre-trained model; ``seed`` changes nothing."""
        model = initialised(0, lambda: GPT(SOTU_SHAPE))
        model.load_state_dict(_pretrained())
        return model

    def text(self, split: str, index: int) -> str:
        """Return the 65 characters of a block: what the model reads, and the last one that it predicts."""
        speech, start = _blocks(split)[index]
        return speech.text[start : start + CONTEXT + 1]

    def show(self, split: str, index: int) -> Display:
        """Return the text of a block and where it is from."""
        speech, start = _blocks(split)[index]
        where = f"{speech.president}, {speech.year}, from character {start + 1} of {len(speech.text)}"
        return Display("text", caption=f"{split} block #{index}: {where}", text=self.text(split, index))

    def source(self) -> str:
        """Return the task's identity, the pre-trained weights included."""
        return f"{super().source()}\n{shipped_digest(_WEIGHTS)}"


@cache
def _blocks(split: str) -> Sequence[tuple[Speech, int]]:
    """Return (message, start) of each block of a split."""
    modern = [speech for speech in speeches() if speech.year >= FIRST_MODERN_YEAR]
    own = [speech for number, speech in enumerate(modern) if (number % 4 == 2) == (split == "test")]
    blocks = [(speech, start) for speech in own for start in block_starts(speech.text, CONTEXT)]
    chosen = hashed_rng("sotu-gpt", split).permutation(len(blocks))[: NUM_TEST if split == "test" else NUM_TRAIN]
    return [blocks[number] for number in chosen]


@cache
def _pretrained() -> dict[str, Tensor]:
    stored = safetensors.torch.load(shipped_bytes(_WEIGHTS))
    return {name: value.float() for name, value in stored.items()}


TASKS = (SotuGPT,)
PLACE = 5
