"""What the explorer shows, ready for the browser: pictures in sprites, factors and rank intervals in base64."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from app.services import _study, layer_name, version
from tda_backend.runs import page_data
from tda_backend.runs.api import Study

TILE = 64  # longest side of a thumbnail in a sprite, pixels
NUM_SHOWN = 20  # examples on either side of the explorer
NUM_RANK_STEPS = 65  # values of λ at which intervals of ranks are sent


def thumbnail(payload: bytes) -> Image.Image:
    """Return a stored picture, no larger than a tile; small pictures keep their pixels."""
    picture = Image.open(io.BytesIO(payload))
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if max(picture.size) > TILE:
        picture.thumbnail((TILE, TILE))
    return picture


def sprite(payloads: list[bytes], columns: int = 25) -> dict[str, Any]:
    """Return one picture of equal square tiles, row by row, as ``{"url": data URL, "columns": …}``."""
    pictures = [thumbnail(payload) for payload in payloads]
    tile = max(max(picture.size) for picture in pictures)
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    columns = min(columns, len(pictures))
    sheet = Image.new(mode, (columns * tile, -(-len(pictures) // columns) * tile))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        offset = ((tile - picture.width) // 2, (tile - picture.height) // 2)
        sheet.paste(picture.convert(mode), (column * tile + offset[0], row * tile + offset[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=3)
    return {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", "columns": columns}


def has_pictures(examples: pd.DataFrame) -> bool:
    """Return whether the examples are shown as pictures."""
    return bool(len(examples)) and bool((examples["kind"] == "image").all())


def is_right(row: Any) -> bool | None:
    """Return whether the model predicts an example's label; ``None`` if there is no prediction or no label."""
    label, prediction = row["label"], row["prediction"]
    if label is None or prediction is None or pd.isna(label) or pd.isna(prediction) or prediction == "":
        return None
    return bool(label == prediction)


def alt_text(row: Any, noun: str) -> str:
    """Return what a picture shows, in words."""
    words = f"{noun} {row['index']}: label {row['label']}"
    if is_right(row) is not None:
        words += f", predicted {row['prediction']}"
    return words if pd.isna(row["goodness"]) else f"{words}, margin {row['goodness']:.1f}".replace("-", "−")


def _bytes(values: Any, dtype: str) -> str:
    """Return numbers as the browser reads them: little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


@st.cache_resource(max_entries=16, show_spinner=False)
def _payload(
    study_id: str, version: str, configuration_id: str, query: int, classes: tuple[str, ...], right: str
) -> dict[str, Any]:
    return _study(study_id, version).explorer_payload(
        configuration_id, query, num=NUM_SHOWN, classes=classes or None, correctness=right or None
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _explorer_numbers(
    study_id: str, version: str, configuration_id: str, query: int, classes: tuple[str, ...], right: str
) -> dict[str, Any]:
    opened = _study(study_id, version)
    payload = _payload(study_id, version, configuration_id, query, classes, right)
    train = opened.examples("train").set_index("position", drop=False)
    chosen = train.loc[payload["positions"]]
    pictures = has_pictures(chosen)
    cards = [
        {
            "position": int(row["position"]),
            "label": str(row["label"]),
            "prediction": str(row["prediction"]),
            "right": is_right(row),
            "alt": alt_text(row, "training example"),
            "text": "" if pictures else str(row["payload"]),
        }
        for row in chosen.to_dict("records")
    ]
    return {
        "filter": payload["filter"],
        "parameters": payload["parameters"],
        "cutoff": payload["cutoff"],
        "eigenvalues": _bytes(payload["eigenvalues"], "<f4"),
        "products": _bytes(payload["products"], "<f4"),
        "parts": payload.get("parts", []),
        "coordinates": _bytes(payload.get("coordinates", []), "<f8"),
        "outside": payload.get("outside", []),
        "cards": cards,
        "sprite": sprite(chosen["payload"].tolist()) if pictures and len(chosen) else None,
        "num": NUM_SHOWN,
        "numTrain": payload["num_train"],
        **_ranks(opened, configuration_id, query, payload["positions"]),
    }


def _ranks(opened: Study, configuration_id: str, query: int, positions: list[int]) -> dict[str, Any]:
    """Return each candidate's lowest and highest rank over training seeds on a grid of λ; None with one seed."""
    num_seeds = page_data.num_sources(opened, configuration_id)
    if num_seeds < 2 or not positions:
        return {"ranks": None, "numSeeds": num_seeds}
    known = opened.configurations().set_index("configuration_id").loc[configuration_id]
    grid: list[float] | None = None
    if known["has_regularization"]:
        grid = page_data.admissible_regularizations(opened, configuration_id, _rank_grid(opened), query)
    values = opened.rank_intervals(configuration_id, query, positions, grid)
    return {"ranks": {"grid": grid or [0.0], "values": _bytes(values, "<i4")}, "numSeeds": num_seeds}


def _rank_grid(opened: Study) -> list[float]:
    positive = [value for value in opened.info["regularizations"] if value > 0]
    return [0.0, *np.geomspace(min(positive), max(positive), NUM_RANK_STEPS - 1).tolist()]


def explorer_numbers(
    opened: Study, configuration_id: str, query: int, classes: tuple[str, ...], right: str
) -> dict[str, Any]:
    """Return what the browser needs to rank one query's training examples at any λ. Shared: do not change it."""
    return _explorer_numbers(opened.study_id, version(), configuration_id, query, classes, right)


def explorer_scores(payload: dict[str, Any], regularization: float) -> np.ndarray:
    """Return the candidates' scores at one λ, ``[c]`` float32: the browser's formula, by the engine's filters.

    Raises:
        NumericalError: The method has no scores at this λ.
    """
    return page_data.payload_scores(payload, regularization)


def top_examples(
    opened: Study, configuration_id: str, query: int, lam: float | None, classes: tuple[str, ...], right: str
) -> pd.DataFrame:
    """Return the examples that the explorer shows at one λ: side, rank, example, label, prediction, score."""
    payload = _payload(opened.study_id, version(), configuration_id, query, classes, right)
    values = explorer_scores(payload, lam or 0.0)
    order = np.argsort(-values, kind="stable")
    num_helpful = min(NUM_SHOWN, -(-len(order) // 2))
    num_harmful = min(NUM_SHOWN, len(order) - num_helpful)
    chosen = np.concatenate([order[:num_helpful], order[::-1][:num_harmful]])
    train = opened.examples("train").set_index("position")
    rows = train.loc[[payload["positions"][index] for index in chosen]]
    return pd.DataFrame(
        {
            "side": ["helpful"] * num_helpful + ["harmful"] * num_harmful,
            "rank": [*range(1, num_helpful + 1), *range(1, num_harmful + 1)],
            "training example": rows["index"].to_numpy(),
            "position": rows.index.to_numpy(),
            "label": rows["label"].to_numpy(),
            "prediction": rows["prediction"].to_numpy(),
            "score": values[chosen],
        }
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _query_sprite(study_id: str, version: str, positions: tuple[int, ...]) -> dict[str, Any] | None:
    examples = _study(study_id, version).examples("queries").set_index("position").loc[list(positions)]
    return sprite(examples["payload"].tolist()) if has_pictures(examples) else None


def query_sprite(opened: Study, positions: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the gallery's sprite of some queries, or ``None`` if they are not pictures."""
    return _query_sprite(opened.study_id, version(), positions)


@st.cache_resource(max_entries=8, show_spinner=False)
def _self_influence(study_id: str, version: str, configuration_id: str, lam: float) -> np.ndarray:
    return page_data.self_influence_of(_study(study_id, version), configuration_id, lam)


def self_influence(opened: Study, configuration_id: str, lam: float) -> np.ndarray:
    """Return every training example's influence on its own loss at one λ, ``[n]``."""
    return _self_influence(opened.study_id, version(), configuration_id, lam)


@st.cache_resource(max_entries=8, show_spinner=False)
def _layer_scores(study_id: str, version: str, configuration_id: str, query: int, lam: float) -> dict[str, np.ndarray]:
    return page_data.layer_scores_of(_study(study_id, version), configuration_id, query, lam)


def layer_scores(opened: Study, configuration_id: str, query: int, lam: float) -> dict[str, np.ndarray]:
    """Return one query's scores by layer at one λ, each ``[n]``; they sum to the scores."""
    parts = _layer_scores(opened.study_id, version(), configuration_id, query, lam)
    return {layer_name(name): values for name, values in parts.items()}
