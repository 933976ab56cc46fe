"""SOURCE: influence through approximate unrolling of the training run, segment by segment (arXiv 2405.12186)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.numerics.curvature.matrix import curvature_matrix
from tda_backend.numerics.curvature.pseudo_gradients import Curvature, check_curvature
from tda_backend.numerics.trajectory.source.fitted import Checkpoints, SourceFit
from tda_backend.numerics.trajectory.source.gradients import (
    FlatLayout,
    GradientLayout,
    LayerLayout,
    flat_layout,
    layer_layout,
)
from tda_backend.numerics.trajectory.source.kronecker import (
    Decomposed,
    KroneckerOperator,
    kronecker_operator,
    preconditioned_kronecker_operator,
    segment_curvature,
    without_null_inputs,
)
from tda_backend.numerics.trajectory.source.preconditioned import (
    Preconditioner,
    preconditioned_decay,
    preconditioned_operator,
)
from tda_backend.numerics.trajectory.source.segments import TrainingSegment, naming, segment_states
from tda_backend.numerics.trajectory.source.settings import DEFAULTS, EXACT, CheckpointedRun, SourceSettings
from tda_backend.numerics.trajectory.source.walk import SegmentOperator, dense_operator


def fit_source(
    run: CheckpointedRun,
    settings: SourceSettings = DEFAULTS,
    *,
    preconditioners: Sequence[Preconditioner] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SourceFit:
    """Fit the curvature of every segment (SOURCE, arXiv 2405.12186, §3.4 and appendix D).

    Kronecker bases average A and S over a segment's checkpoints, decompose once, then average Λ in that basis.

    Args:
        run: Checkpoints and segments.
        settings: Hyper-parameters.
        preconditioners: P of each segment, for AdamW and RMSProp.
        on_progress: Called after every segment with (done, total).

    Raises:
        UsageError: Unknown curvature, rows out of range, a wrong number of preconditioners, or a model that is too
            large for basis ``exact``; names its size.
        DataError: A checkpoint is missing; names the epochs.
        TaskError: Another architecture; parameters that cannot be tracked; a task without outputs.
        NumericalError: A parameter, gradient or moment is not finite; names checkpoint and layer.
    """
    segments = tuple(run.segments)
    if preconditioners is not None and len(preconditioners) != len(segments):
        raise UsageError(
            f"SOURCE got {len(preconditioners)} preconditioners for {len(segments)} segments.", "Give one for each."
        )
    states = segment_states(segments, run.states, fast=settings.fast)
    rows = run.checked_rows(run.rows)
    own = [rows if each.data_indices is None else run.checked_rows(each.data_indices) for each in segments]
    final = run.probe(run.final_state, rows)
    if settings.basis == EXACT:
        check_curvature(settings.curvature)
        layout: GradientLayout = flat_layout(final.model)
    else:
        layout = layer_layout(final.model, settings.untracked)
    checkpoints: list[Checkpoints] = []
    operators: list[SegmentOperator] = []
    known: Decomposed | None = None
    for index, segment in enumerate(segments):
        probes = tuple((label, run.probe(state, own[index])) for label, state in states[index])
        given = None if preconditioners is None else layout.preconditioner(final.model, preconditioners[index])
        checkpoints.append(probes)
        operator, known = _operator(probes, segment, layout, settings, given, known)
        operators.append(operator)
        if on_progress is not None:
            on_progress(index + 1, len(segments))
    rotated = [operator for operator in operators if isinstance(operator, KroneckerOperator)]
    if rotated and isinstance(layout, LayerLayout):
        rotated = without_null_inputs(rotated)
        layout, operators = layout.of(rotated[0]), list(rotated)
    return SourceFit(final, segments, tuple(checkpoints), tuple(operators), layout)


def _operator(
    probes: Checkpoints,
    segment: TrainingSegment,
    layout: GradientLayout,
    settings: SourceSettings,
    preconditioner: Tensor | None,
    known: Decomposed | None,
) -> tuple[SegmentOperator, Decomposed | None]:
    """Return what a segment does to queries, through P ``[p]`` where one is given, and what was decomposed for it."""
    decay = segment.weight_decay * settings.weight_decay
    if isinstance(layout, FlatLayout):
        mean = _mean_curvature(probes, layout.width, settings)
        if preconditioner is None:
            return dense_operator(mean, segment.duration, decay), None
        return preconditioned_operator(mean, preconditioner, segment, weight_decay=settings.weight_decay), None
    layers, known = segment_curvature(probes, settings, known)
    if preconditioner is None:
        return kronecker_operator(layers, segment.duration, decay), known
    extra = preconditioned_decay(segment, preconditioner) * settings.weight_decay
    return preconditioned_kronecker_operator(layers, preconditioner, extra, segment.duration), known


def _mean_curvature(probes: Checkpoints, width: int, settings: SourceSettings) -> Tensor:
    """Return the explicit curvature averaged over a segment's checkpoints, ``[p, p]`` float64."""
    total = torch.zeros(width, width, dtype=torch.float64, device=probes[0][1].home)
    for label, probe in probes:
        with naming(label):
            total += curvature_matrix(probe, Curvature(settings.curvature, settings.seed)).to(total)
    return total / len(probes)
