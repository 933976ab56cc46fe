"""What a study may be called and how large it may be: refused at once, with what is allowed; and odd files are read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from app import state
from tda_backend.errors import LONGEST, StudyError, TDAError, command
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.config.values import as_name, is_name
from tda_backend.studies.pipeline.facts import TaskFacts, task_facts
from tda_backend.studies.pipeline.plan import MOST_STEPS
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study import limits
from tda_backend.studies.study.file import read_study_file, resolve
from tda_backend.studies.study.toml_text import DEPTH, FILE_BYTES, parse
from tests.app.catalogues import copy_of

STUDY = 'name = "x"\ntask = "mnist-lr"\n[training]\nepochs = [1]\n'


@pytest.fixture(scope="module")
def facts() -> TaskFacts:
    return task_facts(load_task("mnist-lr"), "mnist-lr")


@pytest.mark.parametrize("name", ["mnist-lr", "a", "My study 2.1_b+c", "研究", "x" * 80, "1"])
def test_names_that_are_allowed(name: str):
    assert is_name(name)
    assert resolve({"name": name, "task": "t", "training": {"epochs": [1]}}).name == name


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "-rf",
        "",
        " x",
        "x ",
        "x" * 81,
        "a\0",
        "a\n",
        "<b>",
        "$(x)",
        "`x`",
    ],
)
def test_names_that_are_refused_at_reading(name: str):
    with pytest.raises(StudyError, match=r"name = .*not allowed") as caught:
        resolve({"name": name, "task": "t", "training": {"epochs": [1]}})
    assert "A name has up to 80 letters" in caught.value.hint
    assert is_name(as_name(name))


def test_a_catalogue_with_a_wrong_name_writes_nothing_outside(computed: Workspace, cli, tmp_path: Path):
    import duckdb

    copied = copy_of(computed, tmp_path)
    with duckdb.connect(str(copied.catalogue)) as connection:
        connection.execute("UPDATE studies SET name = '../../escape'")
    code, _, err = cli("export", "../../escape", "--out", tmp_path / "a" / "b", "--db", copied.catalogue)
    assert code == 2
    assert "not allowed" in err
    assert not list(tmp_path.rglob("*escape*"))


def test_printed_commands_can_be_pasted():
    assert command("run", "a b", "--db", "x;rm -rf y") == "tda run 'a b' --db 'x;rm -rf y'"


@pytest.mark.parametrize(
    "content",
    [
        STUDY.encode("utf-8-sig"),
        STUDY.replace("\n", "\r\n").encode(),
        STUDY.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + STUDY.replace("\n", "\r\n").encode(),
    ],
)
def test_files_of_every_editor_are_read(tmp_path: Path, content: bytes):
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    assert read_study_file(path) == read_study_file(path) | {"name": "x", "training": {"epochs": [1]}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, f"more than {DEPTH} deep"),
        ("[" + ".".join("a" * 20) + "]\nx = 1", f"more than {DEPTH} deep"),
        (f"x = {'9' * 6000}", "not valid TOML|digits"),
        (f"x = {'9' * 2000}", "digits"),
        ("#" * (FILE_BYTES + 1), "more than 512 KiB"),
        ("x = \ud800", "not valid TOML"),
    ],
)
def test_texts_beyond_the_limits_are_refused(text: str, words: str):
    begun = time.monotonic()
    with pytest.raises(StudyError, match=words):
        parse(text)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * (FILE_BYTES + 1)])
def test_files_beyond_the_limits_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"not UTF-8|KiB"):
        read_study_file(path)


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("data.train", 10**9, "10000000"),
        ("training.seeds", 10**6, "1000"),
        ("ground_truth.subsets", 10**7, "100000"),
        ("ground_truth.alphas", [0.1 + i / 1e5 for i in range(1001)], "1000"),
        ("evaluation.bootstrap", 10**9, "100000"),
        ("regularization.count", 10**6, "10000"),
        ("seed", 2**64, str(2**63 - 1)),
        ("methods.iffim.projection_dim", [10**8], "Allowed"),
        ("task", "x" * 5000, "4096"),
    ],
)
def test_settings_have_limits_and_say_them(key: str, value: object, limit: str):
    content: dict = {"name": "x", "task": "mnist-lr", "training": {"epochs": [1]}}
    place = content
    *parts, last = key.split(".")
    for part in parts:
        place = place.setdefault(part, {})
    place[last] = value
    with pytest.raises(StudyError) as caught:
        resolve(content)
    assert limit in caught.value.hint
    assert len(caught.value.message) < 400


def test_a_plan_beyond_the_limits_is_refused_at_once(facts: TaskFacts, monkeypatch):
    many = [number / 7 for number in range(1, 1001)]
    wide = {"epochs": [1], "projection_dim": list(range(1, 1001)), "damping": many}
    content = {"name": "x", "task": "mnist-lr", "training": {"epochs": [1]}, "methods": {"iffim": wide}}
    content["methods"]["iffim"].pop("damping")
    content["methods"]["trak"] = {"projection_dim": list(range(1, 1001))}
    monkeypatch.setattr(limits, "MOST_CONFIGURATIONS", 1500)
    begun = time.monotonic()
    with pytest.raises(StudyError, match=r"up to 2000 configurations.*the limit is 1500"):
        build_plan(resolve(content), facts)
    assert time.monotonic() - begun < 5


def test_a_plan_with_too_many_retrainings_or_steps_is_refused(facts: TaskFacts, monkeypatch):
    content = {"name": "x", "task": "mnist-lr", "training": {"epochs": [1]}}
    with pytest.raises(StudyError, match=r"trains up to \d+ models; the limit is 1000000"):
        build_plan(resolve({**content, "ground_truth": {"subsets": 2000, "repeats": 1000}}), facts)
    monkeypatch.setattr("tda_backend.studies.pipeline.plan.MOST_STEPS", 10)
    with pytest.raises(StudyError, match="more than 10 steps"):
        build_plan(resolve({**content, "ground_truth": {"subsets": 2000}}), facts)
    assert MOST_STEPS > 1000


def test_links_have_limits():
    view, notes = state.parse({"query": "9" * 5000, "epoch": "9" * 16, "study": "x" * 3000, "with": "a," * 900})
    assert (view.query, view.epoch, view.study) == (None, None, "")
    assert len(view.beside or ()) == state.MOST_PARTS
    assert len(notes) == 3


def test_messages_are_never_longer_than_a_screen():
    error = TDAError("x" * 10**6, "y" * 10**6)
    assert max(len(error.message), len(error.hint)) <= LONGEST + 3
    assert len(str(error)) <= 2 * LONGEST + 10
