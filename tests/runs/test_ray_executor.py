"""The Ray executor against a stand-in that runs tasks inline: same steps, same results, clear error without Ray."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tda_backend.runs.api import open_study
from tda_backend.store.workspace import Workspace
from tests.runs.conftest import make_study


def inline_ray() -> types.ModuleType:
    """A module with the part of Ray's interface that is used; the last submitted task finishes first."""
    ray = types.ModuleType("ray")

    class Reference:
        def __init__(self, result):
            self.result = result

    class Remote:
        def __init__(self, function):
            self.function = function

        def remote(self, *arguments):
            return Reference(self.function(*arguments))

    ray.is_initialized = lambda: True  # type: ignore[attr-defined]
    ray.remote = Remote  # type: ignore[attr-defined]
    ray.wait = lambda tasks, num_returns: ([tasks[-1]], tasks[:-1])  # type: ignore[attr-defined]
    ray.get = lambda reference: reference.result  # type: ignore[attr-defined]
    ray.cancel = lambda task, force: None  # type: ignore[attr-defined]
    return ray


def test_without_ray_the_extra_is_named(tmp_path: Path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = cli("run", make_study(tmp_path), "--db", tmp_path / "c.duckdb", "--executor", "ray")
    assert code == 1
    assert "optional extra 'ray'" in err
    assert "tda-dashboard[ray]" in err


@pytest.mark.slow
def test_ray_computes_what_one_machine_computes(tmp_path: Path, computed: Workspace, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", inline_ray())
    db = tmp_path / "c.duckdb"
    code, _, err = cli("run", make_study(tmp_path), "--db", db, "--executor", "ray")
    assert code == 0, err
    found, expected = open_study("tiny", db), open_study("tiny", computed)
    np.testing.assert_array_equal(found.subset_outputs(), expected.subset_outputs())
    np.testing.assert_array_equal(found.scores("iffim", 1e-2, 8, 4), expected.scores("iffim", 1e-2, 8, 4))
    assert len(found.selections()) == len(expected.selections())
    code, out, _ = cli("run", "tiny", "--db", db, "--executor", "ray")
    assert code == 0
    assert "0 steps computed" in out
