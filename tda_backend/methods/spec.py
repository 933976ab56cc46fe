"""What a row of the method table says, and the checks that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tda_backend.errors import StudyError
from tda_backend.spectral.filters import DampedInverse, SpectralFilter
from tda_backend.spectral.solver_filters import Krylov, LissaMean, StrictDampedInverse

Kind = Literal["whole", "real", "flag", "choice", "dimension", "epochs"]
Curve = Literal["exact filter", "mean of a stochastic method", "measured run", "no λ"]
NONE = "none"


@dataclass(frozen=True)
class Hyperparameter:
    """One hyper-parameter of a method, beside λ.

    Attributes:
        name: Key in a study file.
        kind: ``whole`` or ``real`` number, ``flag`` (true or false), ``choice``, ``dimension`` (whole number or
            ``"none"``) or ``epochs``.
        meaning: One line for people.
        default: Value, or values where it sweeps; ``None``: the study's saved epochs.
        grid: What the papers sweep (METHODS §8); the default where they do not.
        low: Smallest number allowed (``real``: exclusive).
        high: Largest number allowed (``real``: exclusive), or ``None``.
        choices: Allowed texts of a ``choice``.
        sweep: Whether a study may give several values, each of which makes configurations.
        in_filter: Whether it enters the filter alone, so that no new coordinates are computed for it.
    """

    name: str
    kind: Kind
    meaning: str
    default: Any = None
    grid: tuple[Any, ...] = ()
    low: float = 1
    high: float | None = None
    choices: tuple[str, ...] = ()
    sweep: bool = True
    in_filter: bool = False

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.kind == "choice":
            return ", ".join(self.choices)
        if self.kind == "flag":
            return "true, false"
        if self.kind == "epochs":
            return "saved epochs"
        if self.kind == "dimension":
            return 'whole numbers ≥ 1, "none"'
        if self.kind == "whole":
            return f"whole numbers {f'≥ {self.low:g}' if self.high is None else f'{self.low:g} to {self.high:g}'}"
        return f"numbers > {self.low:g}" if self.high is None else f"numbers between {self.low:g} and {self.high:g}"

    def check(self, key: str, value: Any) -> Any:
        """Return one value after checking it.

        Raises:
            StudyError: It is not allowed; says what is.
        """
        whole = isinstance(value, int) and not isinstance(value, bool)
        small = not whole or abs(value) < 2**63  # larger ones are no float
        number = float(value) if small and (whole or isinstance(value, float)) else math.nan
        allowed = {
            "flag": isinstance(value, bool),
            "choice": value in self.choices,
            "dimension": value == NONE or (whole and number >= 1),
            "epochs": whole and number >= 1,
            "whole": whole and number >= self.low and (self.high is None or number <= self.high),
            "real": number > self.low and (math.isfinite(number) if self.high is None else number < self.high),
        }[self.kind]
        if not allowed:
            raise StudyError(f"{key} = {value!r} is not allowed.", f"Allowed: {self.range}.")
        return float(value) if self.kind == "real" else value


@dataclass(frozen=True)
class MethodSpec:
    """One row of the method table.

    Attributes:
        name: Key, as in study files and on the command line.
        title: How pages call it.
        recipe: Which step computes it: ``spectrum`` (from a checkpoint's Gram or projected features), ``curvature``
            (dense coordinates from passes over the model), ``kronecker`` (one Kronecker basis per layer) or ``scores``.
        curve: What its curve over λ is.
        features: Query features · train features.
        curvature: What is decomposed.
        reduction: How training seeds or checkpoints are put together.
        formula: The score, as plain text.
        hyperparameters: Beside λ.
        cost: Cost model: passes, products, memory.
        reference: Paper and section.
        filter_name: Key of :mod:`tda_backend.spectral.filters`.
        needs: What a task must have: ``margin`` (the margin identity), ``outputs`` (outputs, output_loss and
            sample_targets), ``training`` (a training run of ours) or ``labels``.
        has_self_influence: Whether an example's influence on its own loss is defined.
        default_regularization: The λ that the method's paper or reference implementation uses where nothing is tuned
            (METHODS §8), in the units of its configurations (relative for LoGra); ``None``: it has no λ.
    """

    name: str
    title: str
    recipe: Literal["spectrum", "curvature", "kronecker", "scores"]
    curve: Curve
    features: str
    curvature: str
    reduction: Literal["mean", "product of means", "weighted sum", "segment chain"]
    formula: str
    hyperparameters: tuple[Hyperparameter, ...]
    cost: str
    reference: str
    filter_name: str = "damped_inverse"
    needs: tuple[str, ...] = ()
    has_self_influence: bool = True
    default_regularization: float | None = None

    @property
    def has_regularization(self) -> bool:
        """Whether its scores form a curve over λ."""
        return self.recipe != "scores"

    def default_for(self, parameters: Mapping[str, Any]) -> float | None:
        """Return the papers' λ in the units of a configuration; ``None`` where they give none.

        Relative damping: .1 of the mean eigenvalue (EK-FAC's usual choice); LoGra's default is relative already.
        """
        relative = parameters.get("damping") == "relative"
        if self.recipe == "kronecker" and relative:
            return 0.1
        return None if self.name == "logra" and not relative else self.default_regularization

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return one of its hyper-parameters, or ``None``."""
        return next((item for item in self.hyperparameters if item.name == name), None)

    @property
    def swept(self) -> tuple[Hyperparameter, ...]:
        """The hyper-parameters that tell configurations of one epoch and projection apart."""
        return tuple(h for h in self.hyperparameters if h.sweep and h.kind not in ("epochs", "dimension"))


def spectral_filter(
    spec: MethodSpec, parameters: Mapping[str, Any], num_cut: int = 0, num_eigenvalues: int = 0
) -> SpectralFilter:
    """Return the filter of a configuration.

    Args:
        spec: Its method.
        parameters: Its hyper-parameters.
        num_cut: Eigenvalues that are left out of the coordinates.
        num_eigenvalues: Of how many.
    """
    if spec.filter_name == "lissa_mean":
        return LissaMean(scaling=float(parameters["scaling"]), depth=int(parameters["depth"]))
    if spec.filter_name == "krylov":
        return Krylov(max_iter=int(parameters["max_iter"]))
    if spec.name in ("if-explicit", "if-arnoldi"):
        return StrictDampedInverse(num_cut, num_eigenvalues)
    return DampedInverse()
