"""From what a person fills in to the text of a study file. Pure functions.

Fields keep what was typed as text, so that a wrong value reaches the study's own check and is named by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tda_backend.studies.methods import Method


@dataclass(frozen=True)
class StudyForm:
    """What a person asks for.

    Attributes:
        name: Of the study; also of its file.
        task: Built-in name, ``package.module:factory`` or ``file.py:factory``.
        counts: train, validation, queries as typed.
        epochs: Saved checkpoints as typed, e.g. ``1, 5, 20``.
        seeds: Training seeds as typed.
        subsets: Retrained subsets as typed, the most of them where there is ``until``.
        until: Half-width of the LDS's intervals at which retraining stops, as typed.
        alphas: Shares of the training set as typed.
        methods: Method → hyper-parameter → values as typed; an empty text means the default.
    """

    name: str
    task: str
    counts: Mapping[str, str] = field(default_factory=dict)
    epochs: str = ""
    seeds: str = "1"
    subsets: str = "50"
    alphas: str = "0.5"
    until: str = ""
    methods: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def value_of(text: str) -> Any:
    """Return a typed value: a number, true, false, or the word itself."""
    text = text.strip().strip("\"'")
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return text


def values_of(text: str) -> list[Any]:
    """Return typed values that commas or spaces part."""
    return [value_of(part) for part in re.split(r"[,;\s]+", text.strip().strip("[]")) if part]


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, float):
        return "nan" if value != value else repr(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def grid_text(values: Any) -> str:
    """Return values as the form shows them: ``5, 10, 20``."""
    several = values if isinstance(values, list | tuple) else (values,)
    return ", ".join(toml_value(value).strip('"') for value in several)


def to_toml(form: StudyForm, methods: Mapping[str, Method]) -> str:
    """Return the study file.

    Args:
        form: What was filled in.
        methods: The table of methods, which says of a hyper-parameter whether it takes a list.
    """
    lines = [f"name = {toml_value(form.name)}", f"task = {toml_value(form.task)}"]
    counts = [f"{key} = {toml_value(value_of(text))}" for key, text in form.counts.items() if text.strip()]
    if counts:
        lines += ["", "[data]", *counts]
    lines += ["", "[training]"]
    lines += [f"epochs = {toml_value(values_of(form.epochs))}"] if form.epochs.strip() else []
    lines += [f"seeds = {toml_value(value_of(form.seeds))}"] if form.seeds.strip() else []
    lines += ["", "[ground_truth]"]
    lines += [f"subsets = {toml_value(value_of(form.subsets))}"] if form.subsets.strip() else []
    lines += [f"alphas = {toml_value(values_of(form.alphas))}"] if form.alphas.strip() else []
    lines += [f"until = {toml_value(value_of(form.until))}"] if form.until.strip() else []
    for name, settings in form.methods.items():
        lines += ["", f"[methods.{name}]"]
        for key, text in settings.items():
            if not text.strip():
                continue
            item = methods[name].hyperparameter(key)
            several = item is not None and (item.sweep or item.kind == "epochs")
            lines.append(f"{key} = {toml_value(values_of(text) if several else value_of(text))}")
    return "\n".join(lines) + "\n"
