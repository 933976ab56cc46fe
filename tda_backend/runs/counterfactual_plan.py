"""The steps of a plan that retrain counterfactually, and those that look for wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.methods import METHODS
from tda_backend.runs.plan_sources import Adder
from tda_backend.runs.selectors import choose
from tda_backend.runs.study import regularizations

Row = Mapping[str, Any]
LOO_CHUNK = 10
PER_RETRAINING = 0.6
"""Share of a training run's time that a retraining takes: several processes work at once."""
RETRAINING_STEPS = ("counterfactual-base", "removal", "loo")
COUNTERFACTUAL_VERSIONS = {
    "counterfactual-base": 1,
    "removal-order": 1,
    "removal": 1,
    "loo-choice": 1,
    "loo": 1,
    "loo-scores": 1,
    "detect": 1,
}
_NO_STORED_SELF_INFLUENCE = ("source", "fast-source")
"""Score matrices that come with self-influence only where the study asks for it."""


class Counterfactuals:
    """Adds counterfactual steps to a plan.

    Args:
        add: Adds one step.
        study: The resolved study.
        rows: Its configurations.
        examples: Key of the examples.
        evaluations: Configuration → key of its evaluation.
        sources_of: Keys of a configuration's sources.
        model_epochs: Estimated seconds of one training run on all examples.
    """

    def __init__(
        self, add: Adder, study: Mapping[str, Any], rows: Sequence[Row], examples: str,
        evaluations: Mapping[str, str], sources_of: Callable[[Row], list[str]], model_epochs: float,
    ) -> None:  # fmt: skip
        self.add, self.study, self.rows, self.examples = add, study, rows, examples
        self.evaluations, self.sources_of = evaluations, sources_of
        self.retraining = model_epochs * PER_RETRAINING
        self.removals: list[tuple[Row | None, tuple[str, str]]] = []
        """(selector as in the study, or None for the random baseline) and the keys of its order and its last size."""

    def add_all(self, has_noise: bool) -> None:
        """Add what the study asks for; detection of wrong labels wherever there are some."""
        if has_noise:
            for row in self.rows:
                if _has_self_influence(row):
                    self._detect(row)
        if "removal" in self.study:
            self._removals()
        if "loo" in self.study:
            self._loo()

    def _base(self, seeds: int) -> str:
        settings = {"seeds": seeds, "seed": self.study["seed"]}
        label = f"retrain on everything, {seeds} seed{'s' if seeds > 1 else ''}"
        cost = seeds * self.retraining
        return self.add("counterfactual-base", label, settings, {"examples": self.examples}, {"num": seeds}, cost)

    def _about_regularization(self) -> dict[str, Any]:
        evaluation = self.study["evaluation"]
        return {
            "regularizations": regularizations(self.study), "threshold": evaluation["threshold"],
            "quantiles": evaluation["quantiles"],
        }  # fmt: skip

    def _selected(self, selector: Mapping[str, Any]) -> tuple[dict[str, Any], Row, dict[str, Any]]:
        """Return a selector with its α, its configuration, and the inputs that its scores need."""
        row = choose(self.rows, selector)
        keys = self.sources_of(row)
        inputs: dict[str, Any] = {"sources": keys[: selector.get("seeds", len(keys))]}
        complete = dict(selector)
        if selector.get("regularization") == "best":
            complete.setdefault("alpha", self.study["ground_truth"]["alphas"][0])
            inputs["evaluate"] = self.evaluations[row["configuration_id"]]
        return complete, row, inputs

    def _removals(self) -> None:
        removal = self.study["removal"]
        base = self._base(removal["seeds"])
        labels: set[str] = set()
        for selector in removal["of"]:
            complete, row, inputs = self._selected(selector)
            label = f"{row['label']}, {regularization_words(selector)}" if row["has_regularization"] else row["label"]
            if "seeds" in selector:
                label += f", {selector['seeds']} model{'s' if selector['seeds'] > 1 else ''}"
            if label in labels:
                raise StudyError(f"removal.of names {label} twice.", "Two selectors mean the same: leave one out.")
            labels.add(label)
            keys = self._chain(base, label, row["configuration_id"], complete, row, inputs)
            self.removals.append((selector, keys))
        if removal["random"]:
            self.removals.append((None, self._chain(base, "random, same class", None, None, None, {})))

    def _chain(
        self, base: str, label: str, configuration_id: str | None, selector: Row | None, row: Row | None,
        inputs: Mapping[str, Any],
    ) -> tuple[str, str]:  # fmt: skip
        """Add what is removed in which order, then one step a size; return the keys of the order and the last size."""
        removal = self.study["removal"]
        settings: dict[str, Any] = {
            "queries": removal["queries"], "selector": selector, "seed": self.study["seed"],
        }  # fmt: skip
        if row is not None:
            settings |= {"row": identity(row), **self._about_regularization()}
        inputs = {"examples": self.examples, "base": base, **inputs}
        context = {"configuration_id": configuration_id, "label": label}
        order = self.add("removal-order", f"what to remove: {label}", settings, inputs, context, 1.0)
        retrainings = removal["queries"] * removal["seeds"]
        sizes = removal["sizes"]
        rounds: list[tuple[list[int], int | None]] = [(sizes[: number + 1], None) for number in range(len(sizes))]
        rounds += [(sizes, number + 1) for number in range(removal["bisections"])]
        previous: str | None = None
        last = ""
        for tried, bisection in rounds:
            settings = {"sizes": tried, "bisection": bisection, "seeds": removal["seeds"], "seed": self.study["seed"]}
            inputs = {"examples": self.examples, "base": base, "order": order}
            if previous is not None:
                inputs["previous"] = previous
            what = f"remove {tried[-1]}" if bisection is None else f"narrow down {bisection}"
            last = previous = self.add(
                "removal", f"{what}: {label}", settings, inputs, {**context, "num": retrainings},
                retrainings * self.retraining,
            )  # fmt: skip
        return order, last

    def _loo(self) -> None:
        loo = self.study["loo"]
        base = self._base(loo["seeds"])
        settings: dict[str, Any] = {"choice": loo["choice"], "examples": loo["examples"], "seed": self.study["seed"]}
        inputs: dict[str, Any] = {"examples": self.examples}
        if loo["choice"] == "top":
            chosen = [self._selected(selector) for selector in loo["of"]]
            settings |= {
                "selectors": [selector for selector, _, _ in chosen], "rows": [identity(row) for _, row, _ in chosen],
                **self._about_regularization(),
            }  # fmt: skip
            inputs |= {
                f"{role} {number}": keys for number, (_, _, own) in enumerate(chosen) for role, keys in own.items()
            }
        choice = self.add("loo-choice", "which examples to leave out", settings, inputs, {}, 2.0)
        keys = []
        for first in range(0, loo["examples"], LOO_CHUNK):
            last = min(first + LOO_CHUNK, loo["examples"])
            num = (last - first) * loo["seeds"]
            settings = {"first": first, "last": last, "seeds": loo["seeds"], "seed": self.study["seed"]}
            inputs = {"examples": self.examples, "base": base, "choice": choice}
            label = f"leave out one: examples {first + 1}–{last}"
            keys.append(self.add("loo", label, settings, inputs, {"num": num}, num * self.retraining))
        for row in self.rows:
            settings = {**self._of_row(row), "seed": self.study["seed"]}
            inputs = {"examples": self.examples, "base": base, "loo": keys, "sources": self.sources_of(row)}
            context = {"configuration_id": row["configuration_id"]}
            self.add("loo-scores", f"leave-one-out agreement of {row['label']}", settings, inputs, context, 1.0)

    def _of_row(self, row: Row) -> dict[str, Any]:
        settings = {"row": identity(row), "bootstrap": self.study["evaluation"]["bootstrap"]}
        return settings | (self._about_regularization() if row["has_regularization"] else {})

    def _detect(self, row: Row) -> None:
        settings = {**self._of_row(row), "seed": self.study["seed"]}
        inputs = {"examples": self.examples, "sources": self.sources_of(row)}
        context = {"configuration_id": row["configuration_id"]}
        self.add("detect", f"find wrong labels by {row['label']}", settings, inputs, context, 1.0)


def identity(row: Row) -> dict[str, Any]:
    """Return what of a configuration decides its filter."""
    return {"method": row["method"], "parameters": dict(row["parameters"])}


def regularization_words(selector: Row) -> str:
    """Return a selector's λ in words: ``λ*``, ``best λ``, ``λ = 0``."""
    wanted = selector.get("regularization", "selected")
    words = {"selected": "λ*", "best": "best λ", "zero": "λ = 0", "default": "the paper's λ"}
    if isinstance(wanted, float):
        return f"λ = {wanted:g}"
    return words.get(wanted, f"λ at {wanted}")


def _has_self_influence(row: Row) -> bool:
    spec = METHODS[row["method"]]
    if row["method"] in _NO_STORED_SELF_INFLUENCE:
        return bool(row["parameters"].get("self_influence"))
    return spec.has_self_influence


def num_retrainings(name: str, settings: Mapping[str, Any], context: Mapping[str, Any]) -> int:
    """Return how many models a step trains at most (a query that has flipped is not retrained again)."""
    if name in ("train", "train-half"):
        return 1
    if name in ("retrain", "downsample"):
        return (settings["last"] - settings["first"]) * settings["repeats"]
    return int(context["num"]) if name in RETRAINING_STEPS else 0
