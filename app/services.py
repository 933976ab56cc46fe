"""Cached reads of the catalogue and the starting of jobs. No widgets here, and nothing that a page could draw."""

from __future__ import annotations

import base64
import io
import json
import os
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from app.formats import variant_of, variant_title
from tda_backend.runs import jobs
from tda_backend.runs.api import Study, catalogue_version, list_studies, open_study
from tda_backend.store.workspace import Workspace

DEMO_STUDY = "mnist-mlp"
TILE = 64  # longest side of a thumbnail in a sprite, pixels
NUM_SHOWN = 20  # examples on either side of the explorer


def workspace() -> Workspace:
    """Return the workspace of TDA_DB or of the current folder."""
    return Workspace.at(None)


def read_only() -> bool:
    """Return whether buttons that start or end jobs are hidden."""
    return os.environ.get("TDA_READ_ONLY", "") not in ("", "0")


def version() -> str:
    """Return a token that changes whenever the catalogue does."""
    return f"{workspace().catalogue}:{catalogue_version(workspace())}"


def studies() -> pd.DataFrame:
    """Return one row per study, newest first; none if there is no catalogue yet."""
    place = workspace()
    if not place.catalogue.exists() and not place.snapshot.exists():
        return pd.DataFrame(columns=["study_id", "name", "status"])
    return list_studies(place)


@st.cache_resource(max_entries=8, show_spinner=False)
def _study(study_id: str, version: str) -> Study:
    return open_study(study_id, workspace())


def study(study_id: str) -> Study:
    """Return an open study; opened anew when the catalogue has changed."""
    return _study(study_id, version())


def configurations(opened: Study) -> pd.DataFrame:
    """Return the study's configurations with ``variant``, ``variant_title`` and ``best_lds`` (NaN if unknown)."""
    frame = opened.configurations()
    parameters = [json.loads(text) for text in frame["parameters"]]
    frame["variant"] = [variant_of(name, values) for name, values in zip(frame["method"], parameters, strict=True)]
    frame["variant_title"] = [
        variant_title(name, values) for name, values in zip(frame["title"], parameters, strict=True)
    ]
    best = opened.lds_table().groupby("configuration_id")["mean"].max()
    frame["best_lds"] = frame["configuration_id"].map(best).astype(float)
    return frame.sort_values("has_regularization", ascending=False, kind="stable").reset_index(drop=True)


def lds_table(opened: Study, alpha: float) -> pd.DataFrame:
    """Return every grid value of LDS with the configuration's ``variant``."""
    names = configurations(opened).set_index("configuration_id")
    frame = opened.lds_table(alpha)
    for name in ("variant", "variant_title"):
        frame[name] = frame["configuration_id"].map(names[name])
    return frame


# ---------------------------------------------------------------- pictures


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


# ---------------------------------------------------------------- the explorer's payload


def _float32(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


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
        "cutoff": payload["cutoff"],
        "eigenvalues": _float32(payload["eigenvalues"]),
        "products": _float32(payload["products"]),
        "cards": cards,
        "sprite": sprite(chosen["payload"].tolist()) if pictures and len(chosen) else None,
        "num": NUM_SHOWN,
    }


def explorer_numbers(
    opened: Study, configuration_id: str, query: int, classes: tuple[str, ...], right: str
) -> dict[str, Any]:
    """Return what the browser needs to rank one query's training examples at any λ. Shared: do not change it."""
    return _explorer_numbers(opened.study_id, version(), configuration_id, query, classes, right)


def explorer_scores(payload: dict[str, Any], regularization: float) -> np.ndarray:
    """Return the candidates' scores at one λ: the browser's formula, in float32.

    Args:
        payload: What :meth:`Study.explorer_payload` returns.
        regularization: λ ≥ 0.

    Returns:
        ``[c]`` float32.
    """
    eigenvalues = payload["eigenvalues"]
    if payload["filter"] == "identity":
        weights = np.ones_like(eigenvalues)
    elif regularization > 0:
        weights = 1 / (eigenvalues.astype(np.float64) + regularization)
    else:
        kept = eigenvalues > payload["cutoff"]
        weights = np.divide(1.0, eigenvalues, where=kept, out=np.zeros(len(eigenvalues)))
    return payload["products"] @ weights.astype(np.float32)


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


# ---------------------------------------------------------------- jobs


def running_jobs() -> pd.DataFrame:
    """Return all jobs of the workspace, newest first."""
    return jobs.list_jobs(workspace())


def start(arguments: list[str]) -> str:
    """Start ``tda ARGUMENTS`` beside the server and return its job id."""
    return jobs.submit(arguments, workspace(), cwd=os.environ.get("TDA_CWD") or None)


def resume_arguments(study_id: str) -> list[str]:
    """Return the command that goes on with a study of the catalogue."""
    return ["run", study_id]


def cancel(job_id: str) -> bool:
    """End a job; finished steps are kept."""
    return jobs.cancel(job_id, workspace())
