"""A button that copies the address of the present view."""

from __future__ import annotations

import streamlit as st

_JS = """
export default function ({ parentElement }) {
  const button = parentElement.querySelector("button");
  if (button.dataset.ready) return;
  button.dataset.ready = "1";
  const label = button.textContent;
  const say = (text) => {
    button.textContent = text;
    setTimeout(() => (button.textContent = label), 1600);
  };
  button.addEventListener("click", async () => {
    const address = window.location.href;
    try {
      await navigator.clipboard.writeText(address);
      say("Copied");
    } catch {
      // Browsers give the clipboard to secure pages only; elsewhere the person copies from a box.
      window.prompt("Copy this link:", address);
    }
  });
}
"""
_CSS = """
button { width: 100%; font: inherit; font-family: var(--st-font); font-size: 14px; padding: 6px 12px; cursor: pointer;
  color: var(--st-text-color); background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); }
button:hover, button:focus-visible { border-color: var(--st-primary-color); color: var(--st-blue-text-color); }
"""
_button = st.components.v2.component(
    "tda_copy_link", html='<button type="button">Copy link to this view</button>', css=_CSS, js=_JS
)


def copy_link() -> None:
    """Draw the button."""
    _button(key="copy-link")
