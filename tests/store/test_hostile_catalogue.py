"""A catalogue from elsewhere: a view in it that reads another file of this machine reads nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tda_backend.errors import TDAError
from tda_backend.interfaces.cli.care import examine_workspace
from tda_backend.interfaces.reading.study import list_studies
from tda_backend.studies.store import catalogue
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.tables.base import quoted
from tda_backend.studies.store.workspace import Workspace


@pytest.fixture
def hostile(tmp_path: Path) -> Workspace:
    workspace = Workspace.at(tmp_path / "c.duckdb")
    (tmp_path / "secret.csv").write_text("a\nhidden\n")
    with catalogue.writing(workspace):
        pass
    with duckdb.connect(str(workspace.catalogue)) as connection:
        connection.execute(f"CREATE VIEW spying AS SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")
        connection.execute(f"CREATE MACRO spy() AS TABLE SELECT * FROM read_text('{tmp_path / 'secret.csv'}')")
    return workspace


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("query", ["SELECT * FROM spying", "SELECT * FROM spy()", "SELECT * FROM glob('/*')"])
def test_no_other_file_is_read(hostile: Workspace, owned: bool, query: str):
    if owned:
        catalogue.own(hostile)
    try:
        with catalogue.reading(hostile) as connection:
            assert connection.execute("SELECT count(*) FROM studies").fetchall() == [(0,)]
            with pytest.raises(duckdb.PermissionException):
                connection.execute(query)
            with pytest.raises(duckdb.Error):
                connection.execute("SET enable_external_access = true")
        if owned:
            catalogue.publish_snapshot(hostile)
            assert hostile.snapshot.is_file()
    finally:
        catalogue.disown(hostile)


def test_reading_an_old_catalogue_writes_no_other_file(tmp_path: Path):
    """Reading brings it up to date, which drops its views: by names that the file chose."""
    workspace, stolen = Workspace.at(tmp_path / "c.duckdb"), tmp_path / "stolen.py"
    with catalogue.writing(workspace):
        pass
    name = f"main\".\"zz\"; COPY (SELECT 'import os') TO '{stolen}' (HEADER false); CREATE VIEW zz AS SELECT 1; --"
    with duckdb.connect(str(workspace.catalogue)) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
        connection.execute("CREATE VIEW zz AS SELECT 1")
        connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT 2")
    assert len(list_studies(workspace)) == 0
    assert not stolen.exists()
    with catalogue.reading(workspace) as connection:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
    assert found == [(str(catalogue.SCHEMA_VERSION),)]
    with catalogue.writing(workspace) as connection, pytest.raises(duckdb.PermissionException):
        connection.execute(f"COPY (SELECT 1) TO '{stolen}'")


def test_doctor_reads_tables_by_names_that_the_file_chose(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    with catalogue.writing(workspace) as connection:
        connection.execute('CREATE TABLE "a "" b" (n INTEGER)')
    (finding,) = [each for each in examine_workspace(workspace, repair=False) if each.name == "catalogue"]
    assert finding.state == "ok"


@pytest.mark.parametrize("key", ["../../escape", "a/b", "..", "", "/etc/passwd", "a\0b"])
def test_keys_of_artifacts_are_no_paths(tmp_path: Path, key: str):
    store = ArtifactStore(tmp_path / "artifacts")
    for use in (store.path, store.open, store.has, store.usable, store.remove):
        with pytest.raises(TDAError, match="no key"):
            use(key)
