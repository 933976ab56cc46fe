"""The configurations of a study as pages choose among them: typed, with their settings in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app import settings
from app.settings import Settings
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.studies.methods import Method

UNNAMED = frozenset({"half_subset_models"})
"""Settings that a method's title says already."""


@dataclass(frozen=True)
class Configuration(ConfigurationRow):
    """One configuration, with what tells it from the others of its method in this study.

    Attributes:
        settings: Every swept hyper-parameter as text.
        defaults: The same at their defaults.
        choices: Those settings that differ within the method in this study.
        variant: Key of method and choices.
        variant_title: What pages call it.
        method_title: What pages call its method.
        best_lds: Best LDS over its λ; ``None`` if unknown.
    """

    settings: Settings = ()
    defaults: Settings = ()
    choices: Settings = ()
    variant: str = ""
    variant_title: str = ""
    method_title: str = ""
    best_lds: float | None = None

    @property
    def is_relative(self) -> bool:
        """Whether λ counts in units of each layer's mean curvature."""
        return settings.is_relative(self.settings)


@dataclass(frozen=True)
class Configurations:
    """The configurations of a study, in the order of the method table.

    Attributes:
        rows: The configurations.
    """

    rows: tuple[Configuration, ...] = ()

    def __iter__(self) -> Iterator[Configuration]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def methods(self) -> dict[str, str]:
        """Key → title of the methods that occur, in order."""
        return {row.method: row.method_title for row in self.rows}

    @property
    def ids(self) -> list[str]:
        """The configurations' ids, in order."""
        return [row.configuration_id for row in self.rows]

    def of(self, method: str) -> Configurations:
        """Return those of one method."""
        return Configurations(tuple(row for row in self.rows if row.method == method))

    def with_lambda(self, has_regularization: bool = True) -> Configurations:
        """Return those that have a λ, or those that have none."""
        return Configurations(tuple(row for row in self.rows if row.has_regularization == has_regularization))

    def among(self, identities: Iterable[str]) -> Configurations:
        """Return those with one of some ids."""
        wanted = set(identities)
        return Configurations(tuple(row for row in self.rows if row.configuration_id in wanted))

    def by_method(self) -> dict[str, Configurations]:
        """Return method → its configurations, in order."""
        return {method: self.of(method) for method in self.methods}

    def by_id(self, identity: str) -> Configuration:
        """Return the configuration with an id.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if row.configuration_id == identity:
                return row
        raise KeyError(identity)


def described(
    rows: Sequence[ConfigurationRow], methods: Mapping[str, Method], best_lds: Mapping[str, float]
) -> Configurations:
    """Return a study's configurations with their settings and titles, in the order of the method table.

    Args:
        rows: Of the study.
        methods: The method table.
        best_lds: configuration_id → best LDS over λ, as far as it is known.
    """
    settings_by_id = {
        row.configuration_id: settings.settings_of(json.loads(row.parameters), methods[row.method].swept)
        for row in rows
    }
    order = {name: place for place, name in enumerate(methods)}
    found = []
    for method in sorted(dict.fromkeys(row.method for row in rows), key=order.__getitem__):
        mine = [row for row in rows if row.method == method]
        differing = settings.choices_of([settings_by_id[row.configuration_id] for row in mine])
        for row in mine:
            own = settings_by_id[row.configuration_id]
            choices = tuple((name, value) for name, value in own if name in differing)
            found.append(_described(row, methods[method], own, choices, best_lds.get(row.configuration_id)))
    return Configurations(tuple(found))


def _described(
    row: ConfigurationRow, spec: Method, own: Settings, choices: Settings, best_lds: float | None
) -> Configuration:
    named = [settings.words(name, value) for name, value in choices if name not in UNNAMED]
    return Configuration(
        **vars(row),
        settings=own,
        defaults=settings.settings_of({}, spec.swept),
        choices=choices,
        variant="|".join(filter(None, (row.method, settings.settings_text(choices)))),
        variant_title=", ".join([row.title, *named]),
        method_title=spec.title,
        best_lds=best_lds,
    )
