"""Compute one step into its artifact."""

from __future__ import annotations

import resource
import sys
import time

import torch

from tda_backend.errors import MachineError, NumericalError, TDAError, ran_out_of_memory
from tda_backend.models.memory import keep_freed_memory
from tda_backend.studies.pipeline.context import Progress, RunContext
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store import faults


def compute(context: RunContext, step: Step, on_progress: Progress) -> float:
    """Compute one step into its artifact and return how many seconds that took.

    Raises:
        TDAError: It cannot be computed.
    """

    def progress(done: int, total: int) -> None:
        on_progress(done, total)
        faults.reach(step.NAME, "progress")

    keep_freed_memory()
    context.on_progress = progress
    started = time.perf_counter()
    inputs = [each.key for each in step.all_inputs()]
    facts = {"version": step.VERSION, "label": step.label, "device": context.device}
    facts |= {"missing": dict(step.missing)} if step.missing else {}
    with context.store.writing(step.key, step.NAME, step.settings(), inputs, facts) as writer:
        try:
            step.run(context, writer)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            reason = str(error).strip().splitlines()[0]
            raise NumericalError(
                f"A decomposition of {step.label} did not converge: {reason}",
                "Look for extreme values in the gradients of this checkpoint; use another epoch, or a projection.",
            ) from error
        except TDAError:
            raise
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            raise MachineError(
                f"Memory ran out in {step.label}.",
                "Take fewer training examples (--set data.train=2000), a smaller projection or a smaller model; "
                "finished steps are kept.",
            ) from error
        writer.facts["peak_memory_mib"] = peak_memory_mib()
        faults.reach(step.NAME, "computed")
    return time.perf_counter() - started


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
