"""Rules that choose λ, judged side by side: what they cost in retrainings and how much LDS they lose.

    zero         λ = 0, the pseudo-inverse (TRAK's default)
    default      the paper's default of the method
    q0.1 … q0.9  quantiles of the positive eigenvalues (the baseline of *Taming*, §5)
    xi0.3 … xi0.7  the λ at which the mean ξ reaches the threshold (*Taming*, Algorithm 1; 0.5 is the paper's)
    racing       the winner over all values, found by adding retrainings until decided (:mod:`.racing`)
    oracle       the best value there is, known only after all retrainings

Regret is the LDS lost against the best over the grid and all rules of the same configuration, never negative. Racing
and oracle are judged by the retrainings that chose them, so their regret is a little too good.

Measured, mean regret: 70 configurations of MNIST with a perceptron (n = 5 000; IFFIM, TRAK, EK-FAC, LoGra, CG, LiSSA),
and 150 of five tasks (IFFIM; n = 1 500; k none, 512, 128; every epoch, two seeds):

                          zero   q0.5   q0.7   q0.9   xi0.3  xi0.4  xi0.5  xi0.6  xi0.7
    MNIST + MLP           .118   .056   .030   .005   .052   .026   .013   .015   .031
    mnist-mlp             .206   .073   .026   .007   .092   .042   .019   .022   .039
    mnist-lr              .364   .140   .062   .008   .203   .121   .060   .018   .010
    concrete-mlp          .165   .053   .022   .006   .027   .008   .008   .020   .038
    fmnist-mlp-128        .186   .054   .018   .006   .056   .029   .023   .032   .052
    fmnist-noisy          .452   .346   .300   .196   .386   .302   .211   .144   .086

ξ = .5 to .6 loses little where the model is trained and needs no tuning; after three epochs on noisy labels every rule
damps too little. The 0.9 quantile, one of the baselines, is as good or better in all of these but LoGra (.030 to .003)
and CG (.034 to .012); what it means depends on n and k, unlike ξ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.evaluation.indicator import Indicator
from tda_backend.numerics.evaluation.racing import run_race
from tda_backend.numerics.evaluation.selection import QUANTILES, select_regularization, spectrum_quantiles
from tda_backend.numerics.spectral.contraction import admissible
from tda_backend.numerics.spectral.coordinates import Coordinates

THRESHOLDS: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class RuleOutcome:
    """What one rule did in one configuration.

    Attributes:
        configuration: Its id or label.
        rule: Key, see the module.
        regularization: λ it chose.
        lds: Mean LDS there.
        regret: Best LDS of the configuration minus ``lds``.
        num_retrainings: Retrainings the choice needed.
        decades: Distance from the chosen λ to the evaluated one, in decades; 0 where the λ itself was evaluated.
    """

    configuration: str
    rule: str
    regularization: float
    lds: float
    regret: float
    num_retrainings: int
    decades: float


def rule_regularizations(
    spectra: Sequence[Coordinates],
    default: float | None,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    quantiles: Sequence[float] = QUANTILES,
) -> dict[str, float]:
    """Return the λ of every rule that needs no retraining and that the method allows.

    Args:
        spectra: One spectrum per training seed.
        default: The paper's default λ of the method, absolute; ``None`` leaves the rule out.
        thresholds: Of ξ; one that ξ does not reach is left out.
        quantiles: Of the positive eigenvalues.
    """
    found: dict[str, float] = {"zero": 0.0}
    if default is not None:
        found["default"] = float(default)
    found |= {f"q{quantile:g}": value for quantile, value in spectrum_quantiles(spectra, quantiles).items()}
    indicator = Indicator(spectra)
    for threshold in thresholds:
        try:
            found[f"xi{threshold:g}"] = select_regularization(spectra, threshold, indicator).regularization
        except NumericalError:  # ξ stays below this threshold: the rule gives no answer here
            continue
    allowed = set(admissible(spectra, sorted(set(found.values()))))
    return {rule: value for rule, value in found.items() if value in allowed}


@dataclass(frozen=True)
class EvaluatedCurve:
    """The LDS of one configuration at evaluated values of λ.

    Attributes:
        configuration: Id or label.
        regularizations: ``[L]`` evaluated λ; should hold those of the rules. Where it does not, the nearest on the log
            scale stands in and ``decades`` says how far off it is.
        lds: ``[L]`` mean LDS there; NaN values are never chosen by the oracle.
        num_subsets: S, what the oracle costs.

    Raises:
        UsageError: Shapes do not match.
        NumericalError: No LDS is defined.
    """

    configuration: str
    regularizations: Sequence[float] | np.ndarray
    lds: Sequence[float] | np.ndarray
    num_subsets: int

    def __post_init__(self) -> None:
        values, means = self.arrays
        if values.shape != means.shape or values.ndim != 1:
            raise UsageError(
                f"{values.size} values of λ do not fit {means.size} LDS.",
                "Give one LDS, and one row of ranks, for each λ.",
            )
        if not np.isfinite(means).any():
            raise NumericalError(f"No LDS is defined in {self.configuration}.", "Retrain subsets and evaluate first.")

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """λ and LDS, ``[L]`` float64 each."""
        return np.asarray(self.regularizations, dtype=np.float64), np.asarray(self.lds, dtype=np.float64)

    @property
    def best(self) -> int:
        """Position of the highest LDS."""
        return int(np.nanargmax(self.arrays[1]))

    def outcome(self, rule: str, index: int, num_retrainings: int, wanted: float | None = None) -> RuleOutcome:
        """Return what a rule did that chose the λ ``wanted``, judged at position ``index``."""
        values, means = self.arrays
        at = float(values[index])
        chosen = at if wanted is None else wanted
        regret, decades = float(means[self.best] - means[index]), _decades(at, chosen)
        return RuleOutcome(self.configuration, rule, chosen, float(means[index]), regret, num_retrainings, decades)


@dataclass(frozen=True)
class RaceInputs:
    """What racing all values of λ looks at.

    Attributes:
        predicted: ``[L, S, m]`` ranks of predicted subset sums, in the order of the retrainings.
        target: ``[S, m]`` retrained goodness.
        tolerance: Of the race.
        confidence: Of the race.
    """

    predicted: np.ndarray
    target: np.ndarray
    tolerance: float = 0.01
    confidence: float = 0.95


def rule_outcomes(
    curve: EvaluatedCurve, chosen: Mapping[str, float], race: RaceInputs | None = None
) -> list[RuleOutcome]:
    """Return what every rule did in one configuration, racing (if asked for) and the oracle included.

    Args:
        curve: What was evaluated.
        chosen: Rule → λ, from :func:`rule_regularizations`.
        race: Over all values of the curve.

    Raises:
        UsageError: Shapes do not match.
    """
    values, means = curve.arrays
    rows = [curve.outcome(rule, _nearest(values, value), 0, value) for rule, value in chosen.items()]
    if race is not None:
        if len(race.predicted) != len(values):
            raise UsageError(
                f"{values.size} values of λ do not fit {means.size} LDS and ranks of {len(race.predicted)}.",
                "Give one LDS, and one row of ranks, for each λ.",
            )
        ended = run_race(race.predicted, iter(race.target), tolerance=race.tolerance, confidence=race.confidence)
        rows.append(curve.outcome("racing", ended.winner, ended.num_retrainings))
    return [*rows, curve.outcome("oracle", curve.best, curve.num_subsets)]


def _nearest(values: np.ndarray, wanted: float) -> int:
    """Return the index of the evaluated λ nearest on the log scale, where 0 is far from every positive value."""
    return int(np.argmin([_decades(float(value), wanted) for value in values]))


def _decades(at: float, wanted: float) -> float:
    if at == wanted:
        return 0.0
    floor = 1e-30  # λ = 0 is far from every positive λ
    return float(abs(np.log10(max(at, floor)) - np.log10(max(wanted, floor))))
