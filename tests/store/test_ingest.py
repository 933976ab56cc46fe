"""Drops: each taken in once and whole, in any order; a preview never replaces what more subsets gave."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest

from tda_backend.store import catalogue, repository
from tda_backend.store.artifacts import ArtifactStore, content_key
from tda_backend.store.ingest import ingest_inbox, pending_drops, write_drop
from tda_backend.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "catalogue.duckdb").create()


def evaluated(workspace: Workspace, num_subsets: int) -> str:
    """Write an evaluation of one configuration and return its key."""
    key = content_key(num_subsets=num_subsets)
    lds = pd.DataFrame(
        {"alpha": [0.5], "regularization": [1e-3], "num_subsets": [num_subsets], "mean": [num_subsets / 100],
         "ci_low": [0.0], "ci_high": [1.0], "num_undefined": [0], "is_selected": [False]}
    )  # fmt: skip
    with ArtifactStore(workspace.artifacts).writing(key, "evaluate", {}, []) as writer:
        writer.table("lds", lds)
    return key


def drop(workspace: Workspace, key: str, num_subsets: int) -> None:
    context = {"configuration_id": "c", "num_subsets": num_subsets}
    write_drop(workspace, {"kind": "step", "study_id": "s", "key": key, "label": "evaluate", "context": context})


def ingest(workspace: Workspace) -> int:
    with catalogue.writing(workspace) as connection:
        return ingest_inbox(workspace, connection)


@pytest.mark.parametrize("order", list(itertools.permutations([20, 30, 50])))
def test_whatever_the_order_the_most_subsets_win(workspace: Workspace, order: tuple[int, ...]):
    for num_subsets in order:
        drop(workspace, evaluated(workspace, num_subsets), num_subsets)
    assert ingest(workspace) == 3
    rows = repository.query(workspace, "SELECT num_subsets, mean FROM lds")
    assert rows.to_dict("records") == [{"num_subsets": 50, "mean": 0.5}]
    assert pending_drops(workspace) == []


def test_a_drop_that_comes_twice_changes_nothing(workspace: Workspace):
    key = evaluated(workspace, 20)
    for _ in range(2):
        drop(workspace, key, 20)
        ingest(workspace)
    assert len(repository.query(workspace, "SELECT * FROM ingested")) == 1
    assert len(repository.query(workspace, "SELECT * FROM timings")) == 1


def test_damaged_artifacts_and_unreadable_drops_are_put_aside_and_the_rest_goes_on(workspace: Workspace):
    drop(workspace, "ff" * 32, 20)
    (workspace.inbox / "00000.json").write_text("{ not json")
    drop(workspace, evaluated(workspace, 30), 30)
    assert ingest(workspace) == 1
    assert len(list(workspace.inbox.glob("*.refused"))) == 2
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1


def test_a_failing_transaction_leaves_no_row_and_keeps_the_drop(workspace: Workspace, monkeypatch):
    from tda_backend.store import ingest as module

    drop(workspace, evaluated(workspace, 20), 20)

    def die(step: str, point: str) -> None:
        if point == "uncommitted":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.faults, "reach", die)
        with pytest.raises(KeyboardInterrupt):
            ingest(workspace)
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 0
    assert ingest(workspace) == 1
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1
