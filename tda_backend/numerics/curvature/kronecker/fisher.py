"""The Fisher information that Kronecker-factored curvature estimates: whose targets, and the loss gradients they give.

It is *true* when targets are drawn from the model itself, *empirical* with the targets of the data (Grosse et al. 2023,
§2.4). Targets are drawn from a seed hashed from each example's index: batch size and order never matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor, nn

from tda_backend.errors import TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.targets import drawn_targets
from tda_backend.numerics.features.layers import LayerBatch, UntrackedPolicy, ValueFunction, layer_batches
from tda_backend.seeds import hashed_seed

FisherKind: TypeAlias = Literal["true", "empirical"]
FISHERS: tuple[FisherKind, ...] = ("true", "empirical")


@dataclass(frozen=True, eq=False)
class Fisher:
    """Which Fisher information.

    Attributes:
        kind: ``true`` (targets drawn from the model) or ``empirical`` (the data's targets).
        seed: Of the drawn targets.
        num_samples: Draws per example.
        targets: Targets to use instead of drawn ones, ``[num_samples, n]`` or ``[n]``, e.g. to compare with a peer.
    """

    kind: FisherKind = "true"
    seed: int = 0
    num_samples: int = 1
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in FISHERS:
            raise UsageError(f"Unknown Fisher information {self.kind!r}.", f"Allowed: {', '.join(FISHERS)}.")
        empirical = self.kind == "empirical"
        if self.num_samples < 1 or (empirical and (self.num_samples > 1 or self.targets is not None)):
            raise UsageError(
                f"num_samples = {self.num_samples} {'with targets ' if self.targets is not None else ''}cannot be had "
                f"with the {self.kind} Fisher information.",
                "Draws are ≥ 1; the empirical Fisher has the data's own targets, once.",
            )

    def drawn(self, probe: Probe) -> Fisher:
        """Return the same with the targets drawn, so that several passes share one draw."""
        if self.kind == "empirical" or self.targets is not None:
            return self
        return replace(self, targets=fisher_targets(probe, self.seed, self.num_samples))


def fisher_targets(probe: Probe, seed: int = 0, num_samples: int = 1) -> Tensor:
    """Return the targets that the true Fisher draws for the train examples, ``[num_samples, n, ...]`` on the CPU.

    Raises:
        UsageError: There are no examples, or no draws.
        TaskError: The task cannot draw targets.
        NumericalError: Outputs are not finite.
    """
    refuse_no_gradients(probe.count("train"))
    if num_samples < 1:
        raise UsageError(f"num_samples = {num_samples} draws per example.", "Give 1 or more.")
    return drawn_targets(probe, num_samples, lambda row, sample: hashed_seed("fisher-target", seed, sample, row))


def fisher_batches(
    probe: Probe, fisher: Fisher, untracked: UntrackedPolicy, *, verify: bool = True
) -> Iterator[LayerBatch]:
    """Yield factors of the loss gradients whose second moment is the Fisher information, sample after sample.

    ``verify`` as for :func:`layer_batches`.

    Raises:
        UsageError: Targets of another shape than ``[num_samples, n]``.
        TaskError: Untracked parameters are refused, or the task cannot draw targets.
        NumericalError: A gradient is not finite (named layer).
    """
    if fisher.kind == "empirical":
        yield from layer_batches(probe, "train", "train_loss", untracked=untracked, verify=verify)
        return
    num, targets = probe.count("train"), fisher.drawn(probe).targets
    assert targets is not None
    if fisher.num_samples == 1 and targets.shape[:2] != (1, num):
        targets = targets[None]
    if targets.shape[:2] != (fisher.num_samples, num):
        raise UsageError(
            f"Targets of shape {tuple(targets.shape)} for {fisher.num_samples} samples of {num} examples.",
            "Give [num_samples, N], in the order of the indices.",
        )
    for drawn in targets:
        yield from layer_batches(probe, "train", _loss_at(probe, drawn), untracked=untracked, verify=verify)


def refuse_no_gradients(count: int) -> None:
    """Raise a UsageError where there are no examples."""
    if count == 0:
        raise UsageError("There are no examples to take gradients of.", "Give at least one index.")


def _loss_at(probe: Probe, targets: Tensor) -> ValueFunction:
    """Return the loss with other targets than the data's, ``[n, ...]`` in the order of the train rows."""
    task = probe.task

    def value(model: nn.Module, batch: dict[str, Tensor], part: slice) -> Tensor:
        outputs = task.outputs(model, batch)
        losses = task.output_loss(outputs, {**batch, task.label_key: targets[part].to(outputs.device)})
        if losses.shape != (len(outputs),):
            raise TaskError(
                f"Task {task.name!r} returned an output_loss of shape {tuple(losses.shape)} for {len(outputs)} "
                "examples.",
                "output_loss returns one number per example, [b], not reduced.",
            )
        return losses

    return value
