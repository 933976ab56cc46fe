"""The Python of docs/interface.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "interface.md"


def test_source_along_an_adam_run_scores_with_the_preconditioners_that_the_page_makes():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    scores, moments = names["scores"], names["moments"]
    assert scores.shape == (8, 256)
    assert torch.isfinite(scores).all()
    assert (scores.std(1) > 0).all()
    last = [1 / ((moments[t].double() / (1 - 0.99**t)).sqrt() + 1e-3) for t in (30, 40)]
    torch.testing.assert_close(names["preconditioners"][1], (last[0] + last[1]) / 2)
