"""The rows of the method table, in its order.

A family in a file of its own in this folder needs nothing here: what that file calls ``ROWS`` comes after these rows.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tda_backend.studies.contract.method import METHODS, Method
from tda_backend.studies.methods import baselines, explicit, influence, kronecker, source, tracin, unrolled

_IN_ORDER: tuple[Method, ...] = (
    influence.IFFIM,
    influence.TRAK,
    tracin.TRACIN,
    explicit.IF_EXPLICIT,
    influence.IF_CG,
    explicit.IF_CG_RUN,
    influence.IF_LISSA,
    explicit.IF_LISSA_RUN,
    explicit.IF_ARNOLDI,
    kronecker.EKFAC,
    kronecker.KFAC,
    kronecker.DIAGONAL,
    kronecker.LOGRA,
    source.SOURCE,
    source.FAST_SOURCE,
    unrolled.HYDRA_FAST,
    unrolled.UNROLLED_INFLUENCE,
    baselines.REPSIM,
    baselines.GRADIENT_SIMILARITY,
    baselines.NEAREST_INPUTS,
    baselines.EMPIRICAL_INFLUENCE,
    baselines.RANDOM,
)


def _of_other_files() -> tuple[Method, ...]:
    """Return what other files of this folder declare as ``ROWS``, by file name."""
    names = [f"{__package__}.{module.name}" for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(name) for name in names if name != __name__]
    return tuple(row for module in modules for row in getattr(module, "ROWS", ()))


ROWS: tuple[Method, ...] = (*_IN_ORDER, *_of_other_files())
METHODS.update({row.name: row for row in ROWS})
