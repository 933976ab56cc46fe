"""The small version of a study: the same methods on few examples, well under a minute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from tda_backend.studies.config.counterfactual import LeaveOneOut, Removal
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.study import Data, GroundTruth, QuickLimits, RegularizationGrid, Training
from tda_backend.studies.config.trajectory import LookAhead, Unrolling
from tda_backend.studies.methods import METHODS
from tda_backend.studies.study.file import check_study

QUICK_COUNTS = {"train": 600, "validation": 100, "queries": 100}
QUICK_SUBSETS, QUICK_EPOCHS, QUICK_DIM = 12, [1, 5], 64
HEAVY_MODEL, HEAVY_LAMBDAS = 200_000, 10
HEAVY_COUNTS = {"train": 300, "validation": 40, "queries": 40}
"""For models of more than so many parameters."""
QUICK_SEEDS = 2
QUICK_SUFFIX = "-quick"
"""What the name of a small version ends with."""


def quick(content: Mapping[str, Any], num_parameters: int = 100_000) -> dict[str, Any]:
    """Return a version of a study that takes well under a minute, named ``…-quick``.

    A study that tests claims keeps its grids, which the claims are about, and which cost little with few examples; only
    what is retrained or measured by repetition is shortened.

    Args:
        content: The study, not resolved.
        num_parameters: p of the model: no projection is larger.
    """
    small = _Quick(content, num_parameters)
    return small.of_claims() if content.get("claims") else small.plain()


class _Quick:
    """The small version of one study in the making."""

    def __init__(self, content: Mapping[str, Any], num_parameters: int) -> None:
        self.num_parameters = num_parameters
        self.result = copy.deepcopy(check_study(content))  # names what is wrong, and makes lists of single values
        self.result["name"] = f"{self.result.get('name', 'study')}{QUICK_SUFFIX}"
        self.before = Data(**self._table(Data))
        self.limits: Mapping[str, int] = self.result.get(QuickLimits.NAME, {})

    def _table(self, kind: Any) -> dict[str, Any]:
        """Return a section with its defaults, as the study file has it."""
        return {**kind.defaults(), **self.result.get(kind.NAME, {})}

    def _set(self, kind: Any, **values: Any) -> None:
        self.result[kind.NAME] = {**self._table(kind), **values}

    def _truth(self) -> GroundTruth:
        """Return [ground_truth], which loses ``until``: so few subsets are retrained that none is left to save."""
        self.result.get(GroundTruth.NAME, {}).pop("until", None)
        return GroundTruth(**self._table(GroundTruth))

    def _counts(self, counts: Mapping[str, int]) -> Data:
        """Set [data] to no more examples than a quick study has; the study's own [quick] may ask for fewer."""
        table = self._table(Data)
        limits = {key: min(value, self.limits.get(key, value)) for key, value in counts.items()}
        self.result[Data.NAME] = {key: min(value, limits.get(key, value)) for key, value in table.items()}
        return Data(**self.result[Data.NAME])

    def _sections(self, num_train: int, selector: Any) -> None:
        """Set the optional sections to small numbers, and a few sizes that are the same shares of the data."""
        for kind in (Removal, LeaveOneOut):
            if kind.NAME in self.result:
                self.result[kind.NAME] = kind.quick(self.result[kind.NAME], selector)
        for runs in (Unrolling, LookAhead):
            if runs.NAME in self.result:
                self.result[runs.NAME] = runs.quick(self.result[runs.NAME], self.limits)
        removal = self.result.get(Removal.NAME, {})
        if removal.get("sizes"):
            removal["sizes"] = Removal.quick_sizes(removal["sizes"], self.before.train, num_train)

    def plain(self) -> dict[str, Any]:
        """Return the version with two checkpoints, one k, and small numbers."""
        dim = max(1, min(QUICK_DIM, self.num_parameters // 2))
        data = self._counts(QUICK_COUNTS)
        truth = self._truth()
        self._set(GroundTruth, subsets=min(truth.subsets, QUICK_SUBSETS), alphas=list(truth.alphas[:1]))
        methods = self.result.get("methods", {})
        named = sorted({epoch for settings in methods.values() for epoch in settings.get("epochs", [])})
        wanted = sorted(self._table(Training).get("epochs") or named or QUICK_EPOCHS)
        epochs = [epoch for epoch in QUICK_EPOCHS if epoch in wanted] or wanted[:2]
        self.result[Training.NAME] = {**self.result.get(Training.NAME, {}), "epochs": epochs}
        self.result.get("projection", {}).pop("max_dim", None)
        self._sections(data.train, lambda selector: quick_selector(selector, epochs, dim))
        for name, settings in methods.items():
            methods[name] = METHODS[name].quick(settings, epochs, dim, self.num_parameters)
        return self.result

    def of_claims(self) -> dict[str, Any]:
        """Return the version with few examples and subsets, but its grids whole."""
        is_heavy = self.num_parameters > HEAVY_MODEL
        data = self._counts(HEAVY_COUNTS if is_heavy else QUICK_COUNTS)
        truth = self._truth()
        self._set(GroundTruth, subsets=min(truth.subsets, QUICK_SUBSETS), repeats=1)
        if is_heavy:
            grid = RegularizationGrid.table(self.result.get(RegularizationGrid.NAME))
            self.result[RegularizationGrid.NAME] = {**grid, "count": min(grid["count"], HEAVY_LAMBDAS)}
        training = self.result.setdefault(Training.NAME, {})
        training["seeds"] = min(training.get("seeds", 1), QUICK_SEEDS)
        for name, settings in self.result.get("methods", {}).items():
            self.result["methods"][name] = METHODS[name].shortened(settings)
        for claim in self.result["claims"]:
            for side in {"left", "right"} & set(claim):
                claim[side] = [_shortened(item) if isinstance(item, Mapping) else item for item in claim[side]]
        self._sections(data.train, _shortened)
        return self.result


def _shortened(selector: Mapping[str, Any]) -> dict[str, Any]:
    """Return a selector with what is retrained or repeated made small: one model of an ensemble."""
    spec = METHODS.get(selector.get("method", ""))  # selections while training have a strategy instead
    result = dict(selector)
    for name, value in selector.items():
        item = None if spec is None else spec.hyperparameter(name)
        if item is not None:
            result[name] = item.shortened(value, True)
    return result | ({"seeds": 1} if "seeds" in result else {})


def quick_selector(selector: Mapping[str, Any], epochs: Sequence[int], dim: int) -> dict[str, Any]:
    """Return a selector of the quick study's configuration that comes nearest."""
    result, spec = dict(selector), METHODS[selector["method"]]
    if "epoch" in result:
        result["epoch"] = min(epochs, key=lambda epoch: abs(epoch - selector["epoch"]))
    if result.get("projection_dim", NONE) != NONE:
        result["projection_dim"] = dim
    for item in spec.hyperparameters:
        if item.name in result and item.quick is not None:
            result[item.name] = item.shortened(result[item.name])
    return result
