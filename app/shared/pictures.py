"""Examples as pictures: thumbnails, sprites of many in one picture, and what they show in words. Pure functions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from app.formats import signed

TILE = 64  # longest side of a thumbnail in a sprite, pixels
PICTURE = "image"  # kind of an example whose payload is a picture


class Pictured(Protocol):
    """What is read of an example; :class:`tda_backend.interfaces.reading.records.examples.Example` has it all."""

    @property
    def index(self) -> int: ...

    @property
    def label(self) -> str | None: ...

    @property
    def prediction(self) -> str | None: ...

    @property
    def goodness(self) -> float | None: ...

    @property
    def is_right(self) -> bool | None: ...

    @property
    def error(self) -> float | None: ...

    @property
    def payload(self) -> Any: ...

    @property
    def kind(self) -> str: ...


def thumbnail(payload: bytes) -> Image.Image:
    """Return a stored picture, no larger than a tile; small pictures keep their pixels."""
    picture = Image.open(io.BytesIO(payload))
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if max(picture.size) > TILE:
        picture.thumbnail((TILE, TILE))
    return picture


def sprite(payloads: Sequence[bytes], columns: int = 25) -> dict[str, Any]:
    """Return one picture of equal square tiles, row by row, as the browser wants it: ``url`` and ``columns``."""
    pictures = [thumbnail(payload) for payload in payloads]
    tile = max(max(picture.size) for picture in pictures)
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    columns = min(columns, len(pictures))
    sheet = Image.new(mode, (columns * tile, -(-len(pictures) // columns) * tile))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        offset = ((tile - picture.width) // 2, (tile - picture.height) // 2)
        sheet.paste(picture.convert(mode), (column * tile + offset[0], row * tile + offset[1]))
    return {"url": _data_url(sheet, compress_level=3), "columns": columns}


def enlarged(payload: bytes) -> str:
    """Return a picture's data URL for a table; whole multiples of its size, so that pixels stay pixels."""
    picture = thumbnail(payload)
    scale = max(1, TILE // max(picture.size))
    return _data_url(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST))


def _data_url(picture: Image.Image, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_picture(example: Pictured) -> bool:
    """Return whether an example is shown as a picture."""
    return example.kind == PICTURE


def has_pictures(rows: Sequence[Pictured]) -> bool:
    """Return whether there are examples and all are shown as pictures."""
    return bool(rows) and all(is_picture(row) for row in rows)


def sprite_of(rows: Sequence[Pictured]) -> dict[str, Any] | None:
    """Return the sprite of some examples, or ``None`` if they are not pictures."""
    return sprite([row.payload for row in rows]) if has_pictures(rows) else None


def text_of(example: Pictured) -> str:
    """Return what stands in place of a picture: the example's text."""
    return "" if is_picture(example) else str(example.payload)


def label_text(label: str | None) -> str:
    """Return a label for a person: one of spaces or signs that do not show stands in quotes."""
    text = label or ""
    return text if text == text.strip() and text.isprintable() else repr(text)


def mark_text(example: Pictured) -> str:
    """Return what stands under a picture: the label, what is predicted where that differs, or by how much it is off."""
    label = label_text(example.label)
    if example.error is not None:
        return f"{label} ({signed(example.error, 2)})"
    return f"{label} → {label_text(example.prediction)}" if example.is_right is False else label


def prediction_text(example: Pictured) -> str:
    """Return what the model says of an example, in words; empty where it predicts nothing."""
    if example.error is not None:
        return f"predicted {example.prediction}, error {signed(example.error, 2)}"
    return "" if example.is_right is None else f"predicted {label_text(example.prediction)}"


def alt_text(example: Pictured, noun: str) -> str:
    """Return what a picture shows, in words."""
    known = [f"label {label_text(example.label)}" if example.label else "", prediction_text(example)]
    known += [] if example.goodness is None else [f"goodness {signed(example.goodness, 1)}"]
    said = ", ".join(filter(None, known))
    return f"{noun} {example.index}" + (f": {said}" if said else "")
