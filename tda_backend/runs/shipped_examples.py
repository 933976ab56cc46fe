"""The examples behind shipped results, drawn again from the program's own data: results travel without pictures.

Which examples a study has is a pure function of its seed and sizes, and so are the labels that it flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from tda_backend.runs.example_steps import display_row, label_text
from tda_backend.runs.shipped import shipped_results
from tda_backend.runs.study_data import label_noise, split_indices, study_labels
from tda_backend.training.data import validate_data
from tda_backend.training.tasks import BUILT_IN


@dataclass(frozen=True)
class ShippedExamples:
    """Examples of a study whose results are shipped.

    Attributes:
        train: position, index, label, prediction (None: no model is shipped), goodness (NaN), kind, caption, payload.
        queries: Likewise.
        noisy: Training position → its label before the study flipped it (``None``: nobody knows).
    """

    train: pd.DataFrame
    queries: pd.DataFrame
    noisy: dict[int, str | None]


@cache
def shipped_examples(name: str, folder: Path | None = None) -> ShippedExamples | None:
    """Return the examples of a shipped study; ``None`` if its task does not come with the program.

    Raises:
        DataError: There are no such results, or the program's data are damaged.
    """
    config = shipped_results(name, folder).facts["config"]
    if config["task"] not in BUILT_IN:
        return None
    task = BUILT_IN[config["task"]]()
    data = dict(validate_data(task))
    settings = {**config["data"], "seed": config["seed"]}
    sizes = [len(data[split][task.label_key]) for split in ("train", "test")]
    indices = split_indices(settings, *sizes)
    clean = None
    if "flip_labels" in settings:
        clean = data["train"][task.label_key]
        data["train"] = {**data["train"], task.label_key: study_labels(task, data, settings, indices["train"])}
    frames = {}
    for split, source in (("train", "train"), ("queries", "test")):
        labels = data[source][task.label_key]
        rows = [
            {"position": position, "index": index, "label": label_text(task, labels[index]), "prediction": None,
             "goodness": np.nan, **display_row(task, source, index)}
            for position, index in enumerate(indices[split].tolist())
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        is_image = frame["kind"] == "image"
        frame["payload"] = frame["image"].where(is_image, frame["text"]).astype(object)
        frames[split] = frame.drop(columns=["image", "text"])
    noise = label_noise(task, clean, data, indices["train"])
    noisy: dict[int, str | None] = {}
    if noise is not None:
        known = [None] * len(noise.positions) if noise.originals is None else noise.originals
        texts = [None if value is None else label_text(task, value) for value in known]
        noisy = dict(zip((int(position) for position in noise.positions), texts, strict=True))
    return ShippedExamples(frames["train"], frames["queries"], noisy)
