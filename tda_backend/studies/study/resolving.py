"""From a checked study file to a study: defaults filled in, values compared with each other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.studies.claims import with_alpha
from tda_backend.studies.config.gradients import Gradients
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.section import Section
from tda_backend.studies.config.study import (
    OPTIONAL,
    Data,
    Evaluation,
    GroundTruth,
    ProjectionSettings,
    RegularizationGrid,
    Study,
    Training,
)
from tda_backend.studies.config.values import all_but_one
from tda_backend.studies.contract.method import Method, Settings
from tda_backend.studies.methods import METHODS

USUAL_METHOD = "iffim"
"""The method of a study that names none."""
LEAST_DRAWS = 100
"""Draws of the bootstrap of which an interval's ends, the 2.5 and 97.5 % quantiles, say something."""


class Resolving:
    """Fills in what a checked study file leaves open.

    Args:
        checked: As :func:`tda_backend.studies.study.file.check_study` returns it.
    """

    def __init__(self, checked: Mapping[str, Any]) -> None:
        self._checked = checked
        for required in ("name", "task"):
            if required not in checked:
                raise StudyError(f"The study has no {required}.", f'Add a line such as {required} = "mnist-mlp".')

    def _section(self, kind: type[Section], **more: Any) -> dict[str, Any]:
        return {**copy.deepcopy(kind.defaults()), **copy.deepcopy(self._checked.get(kind.NAME, {})), **more}

    def study(self) -> Study:
        """Return the study.

        Raises:
            StudyError: Values contradict each other.
        """
        data = Data.from_json(self._section(Data))
        loo = all_but_one(data.train)
        given: Mapping[str, Settings] = self._checked.get("methods") or {USUAL_METHOD: {}}
        epochs = self._epochs(given)
        methods = {
            name: _method(spec, given[name], epochs) for name, spec in METHODS.items() if given.get(name) is not None
        }
        sections: Any = {k.NAME: self._optional(k, data) for k in OPTIONAL if k.NAME in self._checked}
        if sections.get(Gradients.NAME) == Gradients():  # as a study that says nothing of them
            del sections[Gradients.NAME]
        claims = self._checked.get("claims")
        return Study(
            name=self._checked["name"],
            task=self._checked["task"],
            seed=self._checked.get("seed", 0),
            data=data,
            training=Training.from_json(self._section(Training, epochs=epochs)),
            ground_truth=self._ground_truth(loo),
            projection=self._projection(methods),
            regularization=self._grid(),
            methods=methods,
            evaluation=Evaluation.from_json(self._section(Evaluation)),
            claims=None if claims is None else [with_alpha(claim, loo) for claim in claims],
            **sections,
        )

    def _ground_truth(self, loo: float) -> GroundTruth:
        content = self._section(GroundTruth)
        alphas = [loo if isinstance(alpha, str) else alpha for alpha in content.pop("alphas")]
        truth = GroundTruth(alphas=list(dict.fromkeys(alphas)), **content)
        if truth.until is not None:
            self._check_until(truth)
        return truth

    def _check_until(self, truth: GroundTruth) -> None:
        """Raise a StudyError where there is no interval by which retraining could stop."""
        if not truth.subsets:
            raise StudyError(
                f"ground_truth.until = {truth.until:g} with ground_truth.subsets = 0: nothing is retrained, so there "
                "is no LDS to know.",
                "Give subsets, the most that are retrained, or leave out until.",
            )
        draws = self._section(Evaluation)["bootstrap"]
        if draws < LEAST_DRAWS:
            raise StudyError(
                f"ground_truth.until = {truth.until:g} with evaluation.bootstrap = {draws}: so few draws give no "
                "interval to stop by.",
                f"Give at least {LEAST_DRAWS} draws, or leave out until.",
            )

    def _grid(self) -> RegularizationGrid:
        content = RegularizationGrid.table(self._checked.get(RegularizationGrid.NAME))
        grid = RegularizationGrid.from_json({**content, "relative": content.get("relative") or None})
        if grid.low >= grid.high:
            raise StudyError("regularization.low is not below regularization.high.", "E.g. low = 1e-7, high = 10.")
        return grid

    def _epochs(self, methods: Mapping[str, Settings]) -> list[int]:
        named = {epoch for settings in methods.values() for epoch in settings.get("epochs", [])}
        epochs = sorted(self._section(Training).get("epochs") or named)
        if not epochs:
            raise StudyError("The study names no epochs.", "Add epochs to [training], e.g. epochs = [1, 5].")
        return epochs

    def _projection(self, methods: Mapping[str, Settings]) -> ProjectionSettings:
        dims = [dim for settings in methods.values() for dim in settings.get("projection_dim", []) if dim != NONE]
        largest = max(dims, default=1)
        content = {"max_dim": largest, **self._section(ProjectionSettings)}
        if content.get("draws") == 1:  # as a study that says nothing of draws
            del content["draws"]
        projection = ProjectionSettings(**content)
        if projection.max_dim < largest:
            raise StudyError(
                f"projection.max_dim = {projection.max_dim} is below projection_dim {largest}.",
                "Raise it, or leave it out.",
            )
        return projection

    def _optional(self, kind: type[Section], data: Data) -> Section:
        section = kind.from_json(self._section(kind))
        section.check(data.train, data.queries)
        return section


def _method(spec: Method, settings: Settings, epochs: Sequence[int]) -> dict[str, Any]:
    """Return a method's settings with every hyper-parameter filled in."""
    filled: dict[str, Any] = {}
    for item in spec.hyperparameters:
        if item.name in settings:
            filled[item.name] = settings[item.name]
        elif item.may_be_absent:
            continue
        elif item.kind != "epochs":
            filled[item.name] = list(item.default) if item.sweep else item.default
        elif item.sweep:
            filled[item.name] = list(epochs)
    if "epochs" in filled:
        filled["epochs"] = sorted(set(filled["epochs"]))  # "the last checkpoints" means the latest
        unknown = sorted(set(filled["epochs"]) - set(epochs))
        if unknown:
            raise StudyError(
                f"methods.{spec.name}.epochs has {unknown}, where no checkpoint is saved.",
                f"training.epochs is {list(epochs)}.",
            )
    if "maximum_epochs" in settings:
        filled["maximum_epochs"] = sorted(settings["maximum_epochs"])
        unknown = sorted(set(filled["maximum_epochs"]) - set(filled["epochs"]))
        if unknown:
            raise StudyError(f"methods.{spec.name}.maximum_epochs has {unknown}.", f"Choose among {filled['epochs']}.")
    if spec.hyperparameter("unprojected_epochs") is not None:
        filled["unprojected_epochs"] = _unprojected_epochs(spec.name, filled)
    return filled


def _unprojected_epochs(name: str, filled: Settings) -> list[int]:
    if NONE not in filled["projection_dim"]:
        return []
    wanted = sorted(set(filled.get("unprojected_epochs", filled["epochs"])))
    if not wanted and set(filled["projection_dim"]) == {NONE}:
        raise StudyError(
            f'methods.{name} has nothing to compute: projection_dim is "none" alone and unprojected_epochs is empty.',
            f"Choose unprojected_epochs among {filled['epochs']}, or give projection_dim a number.",
        )
    unknown = sorted(set(wanted) - set(filled["epochs"]))
    if unknown:
        raise StudyError(
            f"methods.{name}.unprojected_epochs has {unknown}, which methods.{name}.epochs lacks.",
            f"Choose among {filled['epochs']}.",
        )
    return wanted
