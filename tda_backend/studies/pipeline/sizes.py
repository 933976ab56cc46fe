"""How much memory the arrays of a study take: what the memory of its steps is planned from.

Every number follows from the study and its task: n, m, v, p, the widths of layers, bytes a number. What steps hold
beside these arrays (program, blocks of rows) is in constants here that were measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tda_backend.models.checking.verification import rows_proved_together
from tda_backend.models.measuring.pace import Pace
from tda_backend.numerics.features.dense import BUDGET_NUMBERS
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts

GIB = 1024.0**3
DOUBLE = 8
"""Bytes of a float64 number."""
LEAST_COLUMNS = 2048
"""Parameters of the smallest block of dense gradients."""
DENSE_SHARE = 2.25
"""A block, and what finds out whether all of it is finite: numbers as large, and a flag for each."""
PASS_EXAMPLES = 64
"""Examples whose dense gradients one pass makes."""
PASS_ROWS = 512
"""Examples of a pass that keeps no gradient of each."""
SAID_ROWS = 1000
"""Examples of a pass that asks a trained model what it says."""
RECORDED = 2
"""Numbers that the calls of a pass record, gradients of outputs included, for each that autograd keeps."""
BUCKET_BYTES = 2
PIECES = 2
"""What the C library holds for tensors of many sizes that come and go, in units of those alive (measured: 1.5–2.5)."""
SLABS_GIB = 0.03
"""Some slabs of gradients, with the buckets of their entries."""

LEAST_SHARE = 1 / 16
"""To what share of their usual size blocks shrink at most where memory is short."""
LEAST_NUMBERS = int(BUDGET_NUMBERS * LEAST_SHARE)


@dataclass(frozen=True)
class Held:
    """Memory that a part of a step holds, in GiB.

    Attributes:
        usual: With blocks of their usual size.
        saved: How much less with the smallest blocks.
    """

    usual: float
    saved: float = 0.0

    def __add__(self, more: float) -> Held:
        return Held(self.usual + more, self.saved)


@dataclass(frozen=True)
class Sizes:
    """What the arrays of a study are made of.

    Attributes:
        num_train: n.
        num_queries: m.
        num_validation: v.
        num_rows: Of the larger split of the task's data.
        num_vectors: N, rows of a checkpoint's gradients: those of the training losses too where they have their own.
        num_parameters: p.
        factor_numbers: Numbers of one gradient's rank-one factors; 0: the model has other layers.
        number_bytes: Of one number of the model.
        example_bytes: Of one example.
        layers: (outputs, inputs) of each layer whose gradient is a matrix.
        batch_size: Rows of a step of training; 0: nothing is trained.
        checks_identity: Whether the margin identity is proved on all rows.
        pace: What passes over the model take.
    """

    num_train: int
    num_queries: int
    num_validation: int
    num_rows: int
    num_vectors: int
    num_parameters: int
    factor_numbers: int
    number_bytes: int
    example_bytes: float
    layers: tuple[tuple[int, int], ...]
    batch_size: int
    checks_identity: bool
    pace: Pace

    @classmethod
    def of(cls, study: Study, facts: TaskFacts) -> Sizes:
        """Return the sizes of a study."""
        data, training = study.data, facts.task.training
        own_losses = 0 if facts.task.margin_identity else data.train
        return cls(
            num_train=data.train,
            num_queries=data.queries,
            num_validation=data.validation,
            num_rows=max(facts.num_train, facts.num_test),
            num_vectors=data.num_vectors + own_losses,
            num_parameters=facts.num_parameters,
            factor_numbers=facts.factor_numbers,
            number_bytes=facts.number_bytes,
            example_bytes=facts.data_bytes / max(facts.num_train + facts.num_test, 1),
            layers=facts.layers,
            batch_size=0 if training is None else min(training.batch_size, data.train),
            checks_identity=facts.task.margin_identity,
            pace=facts.pace,
        )

    @property
    def num_others(self) -> int:
        """v + m."""
        return self.num_queries + self.num_validation

    def numbers(self, *shape: float) -> float:
        """Return what an array of the model's numbers takes, in GiB."""
        return math.prod(shape) * self.number_bytes / GIB

    def coordinates(self, dim: float) -> float:
        """Return what dense coordinates of all examples take, in GiB; a basis has at most n directions."""
        return self.numbers(self.num_train + self.num_others, min(dim, self.num_train))

    @property
    def scores(self) -> float:
        """The scores of all queries in float32, in GiB."""
        return self.num_queries * self.num_train * 4 / GIB

    def forward(self, rows: float) -> float:
        """Return what a forward pass of so many rows holds, in GiB."""
        return self.pace.forward_bytes.of(rows) / GIB

    def backward(self, rows: float) -> float:
        """Return what a forward and backward pass of so many rows holds, the gradient included, in GiB."""
        return self.pace.backward_bytes.of(rows) / GIB

    @property
    def passing(self) -> float:
        """A pass that takes gradients batch by batch, in GiB."""
        return self.backward(min(PASS_ROWS, self.num_train))

    @property
    def verifying(self) -> float:
        """What the task's contract is verified with, in GiB."""
        proved = rows_proved_together(self.pace.kept_bytes) if self.checks_identity else PASS_EXAMPLES
        return max(self.forward(PASS_EXAMPLES * 2), self.backward(min(proved, self.num_train)))

    @property
    def training(self) -> float:
        """A step of training with the optimizer's state, and what a model says of a block of rows, in GiB."""
        step = self.backward(self.batch_size) + self.numbers(3, self.num_parameters)
        return max(step, self.forward(min(SAID_ROWS, self.num_rows)))

    @property
    def factors(self) -> float:
        """All rank-one factors of a checkpoint, in GiB."""
        return self.numbers(self.num_vectors, self.factor_numbers)

    @property
    def gram(self) -> float:
        """The inner products of all gradients, in GiB."""
        return doubles(self.num_vectors, self.num_vectors)

    @property
    def dense_block(self) -> Held:
        """One block of dense gradients, with those of a pass."""
        columns = [max(LEAST_COLUMNS, size // max(self.num_vectors, 1)) for size in (BUDGET_NUMBERS, LEAST_NUMBERS)]
        usual, least = (self.numbers(self.num_vectors, min(each, self.num_parameters)) for each in columns)
        passed = self.numbers(PASS_EXAMPLES, self.num_parameters) + self.backward(PASS_EXAMPLES)
        return Held(DENSE_SHARE * usual + passed, DENSE_SHARE * (usual - least))

    @property
    def streamed(self) -> Held:
        """What a pass that projects gradients batch by batch holds: its graph, what calls record, a bucket each."""
        recorded = RECORDED * self.pace.kept_bytes / self.number_bytes
        usual, least = (
            self._streaming(max(1, min(PASS_EXAMPLES, self.num_train, each // max(1, recorded))))
            for each in (BUDGET_NUMBERS, LEAST_NUMBERS)
        )
        return Held(usual + (BUCKET_BYTES + self.number_bytes) * self.num_parameters / GIB + SLABS_GIB, usual - least)

    def _streaming(self, rows: float) -> float:
        # The first batch keeps its graph, which is differentiated twice.
        return PIECES * (2 * self.backward(rows) + rows * self.pace.kept_bytes / GIB)


def in_words(gib: float) -> str:
    """Return memory as messages give it: ``0.43``, ``12.5``."""
    return f"{gib:.2f}" if gib < 1 else f"{gib:.1f}"


def doubles(*shape: float) -> float:
    """Return what an array of float64 numbers takes, in GiB."""
    return math.prod(shape) * DOUBLE / GIB
