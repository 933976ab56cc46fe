"""A training example of a run in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.formats import plain
from app.shared.pictures import is_picture, label_text
from tda_backend.interfaces.reading.records.examples import Example


def show_payload(example: Example) -> None:
    """Draw a training example: its picture, or the beginning of its text."""
    if is_picture(example):
        st.image(example.payload, width=112)
    elif example.payload is not None:
        st.text(str(example.payload)[:600])


def example_words(example: Example, wrong: Mapping[int, str]) -> str:
    """Return a training example in words, as Markdown.

    Args:
        example: Which.
        wrong: Training position → what is known of its right label.
    """
    words = [f"Training example **{example.index}**"]
    words += [f"label **{plain(label_text(example.label))}**"] if example.label else []
    words += [f"({plain(wrong[example.position])})"] if example.position in wrong else []
    return ", ".join(words)
