"""No code without consent, and no change where nothing may change: whatever asks, the services refuse."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from app import services
from tda_backend.errors import TDAError, UsageError
from tda_backend.studies.jobs import jobs
from tda_backend.studies.store.workspace import Workspace
from tests.app.catalogues import copy_of
from tests.runs.conftest import TASK

MARK = 'from pathlib import Path\nPath(__file__).with_suffix(".ran").write_text("ran")\n'


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A task file that leaves a mark when it is run."""
    path = tmp_path / "own_task.py"
    path.write_text(MARK + TASK)
    return path


@pytest.fixture
def here(tiny, tmp_path: Path, monkeypatch) -> Workspace:
    """A workspace of the services' own, with nothing allowed but what a plain server allows."""
    copied = copy_of(tiny, tmp_path)
    monkeypatch.setenv("TDA_DB", str(copied.catalogue))
    for name in ("TDA_READ_ONLY", "TDA_ALLOW_TASK_FILES"):
        monkeypatch.delenv(name, raising=False)
    services.st.cache_resource.clear()
    services.st.cache_data.clear()
    return copied


def study_of(path: Path, name: str = "own") -> str:
    return f'name = "{name}"\ntask = "{path}:factory"\n[data]\ntrain = 60\nvalidation = 12\nqueries = 10\n' + (
        "[training]\nepochs = [1]\n[ground_truth]\nsubsets = 0\n"
    )


def ran(path: Path) -> bool:
    return path.with_suffix(".ran").exists()


def no_jobs(workspace: Workspace) -> bool:
    return not jobs.list_jobs(workspace) or all(job.status == "done" for job in jobs.list_jobs(workspace))


def test_a_task_file_is_not_run_unless_the_server_allows_it(here: Workspace, own: Path):
    for call in (lambda: services.draft(study_of(own), False), lambda: services.start_study(study_of(own), False)):
        with pytest.raises(UsageError, match="is code, and this server runs none"):
            call()
    with pytest.raises(UsageError, match="is code"):
        services.draft('task = "os.path:join"', False)
    assert not ran(own)
    assert no_jobs(here)
    assert not (here.folder / "studies").exists()


def test_an_allowed_task_file_is_run_in_a_process_of_its_own(here: Workspace, own: Path, monkeypatch):
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")
    own.write_text("import os, sys\nassert 'app.services' not in sys.modules\n" + MARK + TASK)
    draft = services.draft(study_of(own), False)
    assert ran(own)
    assert draft.name == "own"
    assert draft.num_configurations == 1
    assert draft.num_steps > 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nos._exit(3)\n", "ended its process with status 3"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("import time\nwhile True: time.sleep(1)\n", "not returned within 3 s"),
        ("raise ValueError('no')\n", "ValueError: no"),
    ],
)
def test_whatever_its_code_does_the_server_says_it(here: Workspace, own: Path, monkeypatch, code: str, words: str):
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")
    monkeypatch.setenv("TDA_TASK_SECONDS", "3" if "while" in code else "300")
    own.write_text(code)
    with pytest.raises(TDAError, match=words):
        services.draft(study_of(own), False)


def test_a_read_only_server_starts_ends_and_writes_nothing(here: Workspace, monkeypatch):
    monkeypatch.setenv("TDA_READ_ONLY", "1")
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")  # which does not help
    before = sorted(path for path in here.folder.rglob("*"))
    study_id = services.studies()[0].study_id
    calls = [
        lambda: services.start_embedded("mnist-mlp"),
        lambda: services.resume(study_id),
        lambda: services.start_study('name = "x"\ntask = "mnist-lr"\n[training]\nepochs = [1]\n', True),
        lambda: services.cancel("20200101-000000-abcdef"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="read-only"):
            call()
    assert not services.allows_task_files()
    assert sorted(path for path in here.folder.rglob("*")) == before


def test_a_copied_catalogue_runs_no_code_by_a_click(here: Workspace, own: Path):
    """Its study names a file here; its other records say that the task is built in."""
    study_id = services.studies()[0].study_id
    with duckdb.connect(str(here.catalogue)) as connection:
        ((config, info),) = connection.execute("SELECT config, info FROM studies").fetchall()
        config = json.dumps({**json.loads(config), "task": f"{own}:factory"})
        info = json.dumps({**json.loads(info), "task_spec": "mnist-lr", "task": "mnist-lr"})
        connection.execute("UPDATE studies SET task = 'mnist-lr', config = ?, info = ?", [config, info])
    services.st.cache_resource.clear()
    with pytest.raises(UsageError, match="is code"):
        services.resume(study_id)
    assert not ran(own)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "no-such-study", "--task=x"])
def test_only_embedded_studies_start_by_name(here: Workspace, name: str):
    with pytest.raises(UsageError, match="came with the program"):
        services.start_embedded(name)
    assert no_jobs(here)


@pytest.mark.parametrize("name", ["../../escape", "a/b", "/x", ".hidden", "-x", "a\\0b"])
def test_the_form_writes_into_its_folder_alone(here: Workspace, name: str):
    text = f'name = {json.dumps(name)}\ntask = "mnist-lr"\n[training]\nepochs = [1]\n'
    with pytest.raises(TDAError):
        services.start_study(text, True)
    assert not list(here.folder.rglob("*escape*"))
    assert not (here.folder / "studies").exists()


@pytest.mark.parametrize("name", ["overview", "methods", "explorer"])
@pytest.mark.parametrize("allowed", ["", "1"])
def test_no_page_runs_code_before_a_click(page, tiny, own: Path, tmp_path: Path, monkeypatch, name: str, allowed: str):
    copied = copy_of(tiny, tmp_path)
    spec = f"{own}:factory"
    with duckdb.connect(str(copied.catalogue)) as connection:
        ((config, info),) = connection.execute("SELECT config, info FROM studies").fetchall()
        config = json.dumps({**json.loads(config), "task": spec})
        info = json.dumps({**json.loads(info), "task_spec": spec})
        connection.execute("UPDATE studies SET config = ?, info = ?", [config, info])
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", allowed)
    test = page(name, copied)
    assert not test.exception
    assert not ran(own)
    load = [button for button in test.button if button.label == "Load this task"]
    assert len(load) == (name == "methods" and allowed == "1")
    if load:
        load[0].click().run()
        assert not test.exception
        assert ran(own)
