"""Study files, links, command lines, tasks and pickles that mean harm, or are merely broken: refused in one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from app import state
from tda_backend.errors import TDAError
from tda_backend.interfaces.cli.main import build_parser, main
from tda_backend.interfaces.cli.table import VERBS
from tda_backend.interfaces.reading.study import open_study
from tda_backend.models.tasks.registry import BUILT_IN, load_task
from tda_backend.studies.pipeline.facts import TaskFacts, task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import embedded_studies, override, read_study_file, resolve
from tests.runs.conftest import TASK
from tests.torture.conftest import HOSTILE, Place, attempt, randomness, times
from tests.torture.mutations import NASTY, mutated

ONE_LINE = "works, or refused in one line that names it, in seconds; nothing is written elsewhere"
LONGEST, SLOWEST = 1500, 20.0
LOOKING = ("show", "select", "studies", "methods", "export", "rm", "stop")


def said_well(error: TDAError) -> None:
    """Check that an error is one line that a person can read."""
    assert error.message.strip()
    assert len(error.message) <= LONGEST, error.message[:200]
    assert "Traceback" not in error.message


@pytest.fixture(scope="module")
def facts() -> TaskFacts:
    """What is known of a small built-in task."""
    return task_facts(load_task("mnist-lr"), "mnist-lr")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder to work in; whatever is written beside it is seen."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_mutated_study_files(facts: TaskFacts, alone: Path):
    chance = randomness("study files")
    texts = [path.read_text(encoding="utf-8") for path in embedded_studies().values()]
    path, ends = alone / "study.toml", {"works": 0, "refused": 0}
    for _ in range(times(70, 700)):
        with attempt("a mutated study file", ONE_LINE, HOSTILE):
            path.write_bytes(mutated(chance.choice(texts), chance).encode("utf-8", "surrogatepass"))
            started = time.monotonic()
            try:
                content = read_study_file(path)
                if chance.random() < 0.3:
                    key = chance.choice(["data.train", "name", "methods.iffim.projection_dim", "x.y"])
                    content = override(content, [f"{key}={chance.choice(NASTY)}"])
                build_plan(resolve({**content, "task": "mnist-lr"}), facts)
                ends["works"] += 1
            except TDAError as error:
                said_well(error)
                ends["refused"] += 1
            assert time.monotonic() - started < SLOWEST
            assert files(alone.parents[1]) == {path}
    assert min(ends.values()) > 0


def test_mutated_links(page, undisturbed: Workspace):
    chance = randomness("links")
    whole = {"study": "victim", "method": "iffim", "set": "a:1", "epoch": "4", "k": "8", "lam": "0.1", "query": "3"}
    whole |= {"class": "ant|bee", "right": "right", "alpha": "0.5", "xi": "0.3", "train": "7", "with": "trak,tracin"}
    for number in range(times(70, 700)):
        with attempt("a mutated link", "a page with a note; the same view when it is opened again", HOSTILE):
            link = {name: mutated(text, chance) for name, text in whole.items() if chance.random() < 0.6}
            view, _ = state.parse(link)
            again, _ = state.parse(state.to_params(view))
            assert state.to_params(again) == state.to_params(view)
            if number % 70 == 0:
                test = page("explorer", undisturbed, **link)
                assert not test.exception


def test_mutated_command_lines(undisturbed: Workspace, place: Place, alone: Path, monkeypatch, capsys):
    chance = randomness("command lines")
    workspace = place.copy(undisturbed)
    monkeypatch.setenv("TDA_DB", str(workspace.catalogue))
    before = files(workspace.folder)
    examples = [verb.example.split()[1:] for verb in VERBS.values()]
    for _ in range(times(50, 500)):
        with attempt("a mutated command line", "exit code 0, 1 or 2, and one line with a hint", HOSTILE):
            words = [mutated(word, chance) if chance.random() < 0.4 else word for word in chance.choice(examples)]
            words += [chance.choice(("--json", "--db", "--quick", "--out", *NASTY))] if chance.random() < 0.5 else []
            if words and words[0] in LOOKING and "--db" not in words:
                with contextlib.suppress(SystemExit):
                    assert main(words) in (0, 1, 2)
                said = capsys.readouterr().err
                assert "unexpected" not in said, (words, said)
                assert "Traceback" not in said
            else:
                with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                    try:
                        build_parser(words).parse_args(words)
                    except TDAError as error:
                        said_well(error)
            capsys.readouterr()
    assert before <= files(workspace.folder)
    assert {path.suffix for path in files(alone.parents[1])} <= {".parquet"}
    assert all(alone in path.parents for path in files(alone.parents[1]))


LINES = {
    "datasets": ["return None", "return []", "return {'train': 1}", "raise KeyError('x')", "raise SystemExit(3)"],
    "build_model": ["return None", "return 'x'", "raise SystemExit", "raise KeyboardInterrupt", "return 1 / 0"],
    "show": ["return None"],
}


def hostile_source(chance: random.Random) -> str:
    """Return a task that does something odd in one of its methods, or whose source was mutated."""
    if chance.random() < 0.6:
        return mutated(TASK, chance)
    method = chance.choice(list(LINES))
    extra = ["while True: pass", "import os; os.abort()", "def f(): return f()\n        return f()", "return self"]
    line = chance.choice([*LINES[method], *extra[2:], *(extra[:1] if chance.random() < 0.1 else [])])
    start = TASK.index("\n", TASK.index(f"def {method}(")) + 1
    return f"{TASK[:start]}        {line}\n{TASK[start:]}"


def test_hostile_tasks(alone: Path):
    chance = randomness("tasks")
    names = []
    for number in range(times(20, 200)):
        path = alone / f"task{number}.py"
        path.write_bytes(hostile_source(chance).encode("utf-8", "surrogatepass"))
        names.append(path)
    ends: dict[str, int] = {}
    waiting = list(names)
    while waiting:
        done = subprocess.run(
            [sys.executable, "-m", "tests.torture.hostile_tasks"],
            input="\n".join(map(str, waiting)),
            capture_output=True,
            text=True,
            env={**os.environ, "TDA_TASK_SECONDS": "3", "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, done.stderr[-2000:]  # nothing of these ends a process
        for said, path in zip(lines, waiting, strict=False):
            with attempt("a hostile or broken task", ONE_LINE, HOSTILE):
                ends[said["end"]] = ends.get(said["end"], 0) + 1
                assert said["file"] == path.name
                assert said["end"] in ("works", "refused") or said["words"].startswith("KeyboardInterrupt"), said
                assert "\n" not in said["words"].strip(), said
                assert len(said["words"]) <= LONGEST
        waiting = waiting[len(lines) :]
    assert ends.get("refused", 0) > len(names) // 4


class Evil:
    """What writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_pickles_are_never_read(undisturbed: Workspace, place: Place, alone: Path, capsys):
    """In the place of every kind of file that is read: artifacts, drops, job files, the catalogue, checkpoints."""
    mark = alone / "mark"
    poison = pickle.dumps(Evil(mark))
    array = io.BytesIO()
    np.save(array, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    pickle.loads(poison)
    assert mark.exists(), "the poison works"
    mark.unlink()
    chance = randomness("pickles")
    kinds = [f"artifacts/??/*/*{suffix}" for suffix in (".npy", ".safetensors", ".parquet", ".json")]
    kinds += ["jobs/*.json", "c.duckdb"]
    for pattern, content in itertools.product(kinds, (poison, array.getvalue())):
        for _ in range(times(1, 10)):
            with attempt("a pickle in the place of a file", "refused; nothing of it is run", HOSTILE):
                workspace = place.copy(undisturbed)
                victims = sorted(workspace.folder.glob(pattern))
                if victims:
                    chance.choice(victims).write_bytes(content)
                _read_everything(workspace)
                assert not mark.exists()
    checkpoint = alone / "state.pt"
    checkpoint.write_bytes(poison)
    with attempt("a pickle as a checkpoint", "refused; nothing of it is run", HOSTILE):
        (alone / "given.py").write_text(
            TASK.replace("    training = ", f"    checkpoint_files = ({str(checkpoint)!r},)\n    training = None  # ")
        )
        assert main(["run", "--task", f"{alone / 'given.py'}:factory", "--db", str(alone / "c.duckdb")]) == 1
        assert "cannot be read" in capsys.readouterr().err
        assert not mark.exists()


def _read_everything(workspace: Workspace) -> None:
    with contextlib.suppress(TDAError):
        study = open_study("victim", workspace)
        for read in (
            lambda: study.scores("iffim", 0.1, projection_dim=8, training_epoch=2),
            lambda: study.lds("iffim", [0.1], 8, 2),
            lambda: study.subset_outputs(0.5),
            lambda: study.scores("tracin"),
            lambda: study.examples("train"),
        ):
            with contextlib.suppress(TDAError):
                read()


def test_the_built_in_tasks_are_named_by_no_hostile_text():
    assert not any(word in BUILT_IN for word in NASTY)
