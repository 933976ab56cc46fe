"""Every damage to a workspace: doctor finds it, ``--repair`` mends it, and a run makes the study whole again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_backend.interfaces.reading.study import list_studies
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.runs.test_damage import truncate, zero_half


def largest(workspace: Workspace) -> Path:
    return max(workspace.artifacts.rglob("*.npy"), key=lambda path: path.stat().st_size)


def zero_all(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_start(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])


def manifest(workspace: Workspace) -> Path:
    return largest(workspace).with_name("manifest.json")


def lose_folders(workspace: Workspace) -> None:
    store = ArtifactStore(workspace.artifacts)
    for key in [key for key in store.all_keys() if store.peek(key).step in ("spectrum", "evaluate")][:3]:
        shutil.rmtree(store.path(key))


DAMAGES: dict[str, tuple[Callable[[Workspace], object], bool]] = {
    "half of the catalogue zeroed": (lambda place: zero_half(place.catalogue), False),
    "start of the catalogue zeroed": (lambda place: zero_start(place.catalogue), False),
    "catalogue all zeros": (lambda place: zero_all(place.catalogue), False),
    "catalogue truncated": (lambda place: truncate(place.catalogue), False),
    "catalogue empty": (lambda place: place.catalogue.write_bytes(b""), False),
    "catalogue gone": (lambda place: place.catalogue.unlink(), False),
    "array zeroed": (lambda place: zero_half(largest(place)), True),
    "array gone": (lambda place: largest(place).unlink(), True),
    "manifest zeroed": (lambda place: zero_all(manifest(place)), True),
    "manifest gone": (lambda place: manifest(place).unlink(), True),
    "folders gone": (lose_folders, True),
    "all artifacts gone": (lambda place: shutil.rmtree(place.artifacts), True),
    "half-written files": (lambda place: (place.jobs / ".a.json.ffff.tmp").write_text("{"), False),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_found_mended_and_made_whole(copied: Workspace, cli, name: str):
    damage, needs_run = DAMAGES[name]
    before = json.loads(cli("select", "tiny", "--json", "--db", copied.catalogue)[1])
    damage(copied)
    code, out, err = cli("doctor", "--db", copied.catalogue)
    assert err == ""
    assert any(line.startswith(("problem", "note")) for line in out.splitlines()), out
    code, out, err = cli("doctor", "--repair", "--db", copied.catalogue)
    assert (code, err) == (0, "")
    code, again, _ = cli("doctor", "--db", copied.catalogue)
    assert code == 0, again
    if needs_run and name != "all artifacts gone":
        assert "partial" in list_studies(copied)["status"].tolist()
    if name == "all artifacts gone":
        return
    code, out, err = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0, err
    assert ("0 steps computed" in out) is not needs_run
    after = json.loads(cli("select", "tiny", "--json", "--db", copied.catalogue)[1])
    assert after == before
    assert list_studies(copied)["status"].tolist() == ["complete"]


def test_a_torn_log_of_the_catalogue_changes_nothing(copied: Workspace, cli):
    """DuckDB itself leaves out what it cannot read of its log: whatever was committed is in the file or comes again."""
    before = cli("select", "tiny", "--json", "--db", copied.catalogue)
    copied.log.write_bytes(b"junk" * 999)
    assert cli("doctor", "--repair", "--db", copied.catalogue)[0] == 0
    assert cli("select", "tiny", "--json", "--db", copied.catalogue) == before


def test_what_was_set_aside_by_mistake_goes_back(copied: Workspace, cli):
    store = ArtifactStore(copied.artifacts)
    key = largest(copied).parent.name
    store.set_aside(key)
    code, out, _ = cli("doctor", "--repair", "--db", copied.catalogue)
    assert code == 0
    assert "1 artifacts were whole after all and are back" in out
    assert store.usable(key, thorough=True)
    assert "0 steps computed" in cli("run", "tiny", "--db", copied.catalogue)[1]


def test_the_old_catalogue_is_kept(copied: Workspace, cli):
    zero_half(copied.catalogue)
    damaged = copied.catalogue.read_bytes()
    code, out, _ = cli("doctor", "--repair", "--db", copied.catalogue)
    assert code == 0
    assert "The old file is kept as catalogue.duckdb.set-aside-" in out
    (kept,) = copied.folder.glob("catalogue.duckdb.set-aside-*")
    assert kept.read_bytes() == damaged


def test_a_catalogue_of_a_newer_version_is_not_touched(copied: Workspace, cli):
    from tda_backend.studies.store import catalogue

    with catalogue.writing(copied) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    before = copied.catalogue.read_bytes()
    code, out, _ = cli("doctor", "--repair", "--db", copied.catalogue)
    assert code == 1
    assert "Upgrade tda-dashboard" in out
    assert copied.catalogue.read_bytes() == before
