"""Compute one step into its artifact."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from typing import Any

import torch

from tda_backend.blocks import BlockSizes, free_memory, sized_by
from tda_backend.errors import NumericalError, OutOfMemory, asked_bytes, ran_out_of_memory
from tda_backend.models.memory import keep_freed_memory
from tda_backend.studies.pipeline.available import free_bytes
from tda_backend.studies.pipeline.context import Progress, RunContext
from tda_backend.studies.pipeline.sizes import GIB, in_words
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store import faults
from tda_backend.studies.store.artifact import REMARKS


def compute(context: RunContext, step: Step, on_progress: Progress) -> float:
    """Compute one step into its artifact and return how many seconds that took.

    Where memory runs out beyond what halved blocks save, the step is computed again from its beginning, with all blocks
    halved; later steps of its kind keep their sizes.

    Raises:
        OutOfMemory: Memory does not suffice for the smallest blocks either.
        TDAError: It cannot be computed.
    """

    def progress(done: int, total: int) -> None:
        on_progress(done, total)
        faults.reach(step.NAME, "progress")

    keep_freed_memory()
    context.on_progress = progress
    started = time.perf_counter()
    sizes = context.block_sizes.setdefault(step.NAME, BlockSizes())
    with sized_by(sizes):
        while not _computed(context, step, sizes):
            pass
    return time.perf_counter() - started


def _computed(context: RunContext, step: Step, sizes: BlockSizes) -> bool:
    """Compute a step into its artifact; return ``False`` if memory ran out and all blocks are halved now.

    Raises:
        OutOfMemory: Memory ran out, and no block can be halved.
        TDAError: It cannot be computed for another reason.
    """
    inputs = [each.key for each in step.all_inputs()]
    facts: dict[str, Any] = {"version": step.VERSION, "label": step.label, "device": context.device}
    facts |= {"missing": dict(step.missing)} if step.missing else {}
    try:
        with context.store.writing(step.key, step.NAME, step.settings(), inputs, facts) as writer:
            step.run(context, writer)
            writer.facts["peak_memory_mib"] = peak_memory_mib()
            remarks = [*writer.facts.get(REMARKS, []), *sizes.take_remarks()]
            writer.facts.update({REMARKS: remarks} if remarks else {})
            faults.reach(step.NAME, "computed")
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        reason = str(error).strip().splitlines()[0]
        raise NumericalError(
            f"A decomposition of {step.label} did not converge: {reason}",
            "Look for extreme values in the gradients of this checkpoint; use another epoch, or a projection.",
        ) from error
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        refusal = None if sizes.halve_all() else _refusal(context, step, sizes, error)
    else:
        return True
    # Only here, where the error is forgotten: its traceback holds what the step had allocated.
    context.memo.clear()
    free_memory()
    if refusal is not None:
        raise refusal
    return False


def _refusal(context: RunContext, step: Step, sizes: BlockSizes, error: Exception) -> OutOfMemory:
    """Return the error of a step for which there is not enough memory: what was asked for, what is free, what to do."""
    device, asked = torch.device(context.device), asked_bytes(error.__cause__ or error)
    wanted = "" if asked is None else f"{in_words(asked / GIB)} GiB were asked for, "
    small = ", with the smallest blocks too" if sizes.were_halved else ""
    elsewhere = "" if device.type == "cpu" else ", or --device cpu"
    free = in_words(free_bytes(device) / GIB)
    refusal = OutOfMemory(
        f"Memory ran out in {step.label} on {device}{small}: {wanted}{free} GiB are free.",
        "Take a smaller projection, fewer training examples (--set data.train=2000) or a smaller model"
        f"{elsewhere}; tda run --memory GiB names what fits.",
    )
    refusal.add_note("".join(traceback.format_exception(error)))  # as text, which holds no tensor
    return refusal


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
