"""A person's task is what it computes: other values make another task, another way of writing or showing does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
import torch

from tda_backend.models.checking.verification import same_data
from tda_backend.models.tasks.identity.code import normal_code
from tda_backend.models.tasks.identity.values import rounded
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.facts import task_facts
from tests.runs.conftest import ROOT, STUDY, TASK

LOSS = """
    def train_loss(self, model, batch):
        weights = torch.tensor(json.loads(Path(__file__).with_name("weights.json").read_text()))
        return super().train_loss(model, batch) * weights[batch["y"]]
"""
WEIGHTED = "import json\nfrom pathlib import Path\n" + TASK.replace("    def show(", f"{LOSS}\n    def show(")
PRETRAINED = "from pathlib import Path\n" + TASK.replace(
    "            return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))",
    "            model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))\n"
    '            model.load_state_dict(torch.load(Path(__file__).with_name("base.pt"), weights_only=True))\n'
    "            return model",
)
FROM_CSV = "from pathlib import Path\nimport numpy as np\n" + TASK.replace(
    'return {"train": blobs(90, 1), "test": blobs(48, 2)}',
    'x = torch.from_numpy(np.loadtxt(Path(__file__).with_name("x.csv"), delimiter=",", dtype=np.float32))\n'
    '        return {"train": {"x": x, "y": torch.arange(30) % 3}, "test": blobs(48, 2)}',
)
PICTURES = TASK.replace(
    'return Display("text", caption="a point", text=f"{split} {index}")', "return picture(split, index)"
).replace(
    "class Tiny",
    'def picture(split, index):\n    return Display("text", caption=WORDS, text=f"{split} {index}")\n\n\n'
    'WORDS = "a point"\n\n\nclass Tiny',
)
SUBCLASS = """
from tda_backend.models.tasks.built_in.images import MnistLR
class Own(MnistLR):
    name = "own"
    def train_loss(self, model, batch):
        return 2 * super().train_loss(model, batch)
def factory():
    return Own()
"""


def identity(folder: Path, code: str) -> tuple[str, str | None]:
    """Return fingerprint and displays of a task written into ``folder``."""
    path = folder / "a_task.py"
    path.write_text(code)
    spec = f"{path}:factory"
    facts = task_facts(load_task(spec), spec)
    return facts.fingerprint, facts.displays


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def factory", "# a comment\ndef factory"),
        ('name = "tiny"', 'name = "tiny"  # short'),
        ("    return Tiny()", '    """Make it."""\n    return Tiny()'),
        ('    name = "tiny"', '    """Points."""\n\n    name = "tiny"'),
        ("a point", "one point"),
        ('"ant"', '"ape"'),
        ("    labels = ", "    kinds = labels = "),
        ("def blobs(num, seed):", "def blobs(num: int, seed: int) -> dict:"),
        ("def build_model(self, seed):\n", "def build_model(self, seed):\n\n\n"),
        ("from torch import nn\n", "from torch import nn  # layers\n\n"),
        ("def factory", 'if __name__ == "__main__":\n    print(Tiny())\n\n\ndef factory'),
    ],
)
def test_what_computes_the_same_is_the_same_task(tmp_path: Path, old: str, new: str):
    assert old in TASK
    changed = TASK.replace(old, new)
    if "kinds" in new:
        changed = TASK.replace("labels", "kinds")
    before, after = identity(tmp_path, TASK), identity(tmp_path, changed)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_renamed_parameter_is_the_same_task(tmp_path: Path):
    changed = TASK.replace("def blobs(num, seed)", "def blobs(n, s)").replace(
        "manual_seed(seed)\n    l", "manual_seed(s)\n    l"
    )
    changed = changed.replace("arange(num)", "arange(n)").replace("randn(num,", "randn(n,")
    assert identity(tmp_path, TASK)[0] == identity(tmp_path, changed)[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* 2\n", "* 3\n"),
        ("torch.randn(num", "0.5 * torch.randn(num"),
        ("learning_rate=0.1", "learning_rate=0.2"),
        ("nn.ReLU()", "nn.Tanh()"),
        ("nn.Linear(6, 5)", "nn.Linear(6, 5, bias=False)"),
        ("torch.manual_seed(seed)\n            return", "torch.manual_seed(seed + 1)\n            return"),
        ("    def show", "    measurement_sign = -1\n\n    def show"),
        ("    def show", "    def predict(self, model, batch):\n        return None\n\n    def show"),
    ],
)
def test_what_computes_something_else_is_another_task(tmp_path: Path, old: str, new: str):
    assert old in TASK
    assert identity(tmp_path, TASK)[0] != identity(tmp_path, TASK.replace(old, new))[0]


def test_what_only_the_display_uses_does_not_count(tmp_path: Path):
    before = identity(tmp_path, PICTURES)
    after = identity(tmp_path, PICTURES.replace('WORDS = "a point"', 'WORDS = "no point"'))
    other = identity(
        tmp_path, PICTURES.replace("def picture(split, index):\n", "def picture(split, index):\n    import math\n")
    )
    assert before[0] == after[0] == other[0]
    assert len({before[1], after[1], other[1]}) == 3


def test_a_name_of_the_display_counts_where_the_loss_uses_it(tmp_path: Path):
    code = PICTURES.replace(
        "    def show", "    def predict(self, model, batch):\n        return len(WORDS)\n\n    def show"
    )
    assert identity(tmp_path, code)[0] != identity(tmp_path, code.replace('WORDS = "a point"', 'WORDS = "no point"'))[0]


def write_weights(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    torch.save(model.state_dict(), folder / "base.pt")


def write_json(folder: Path, seed: int) -> None:
    (folder / "weights.json").write_text(json.dumps([1.0, 1.0, 1.0 + seed / 1000]))


def write_csv(folder: Path, seed: int) -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))
    (folder / "x.csv").write_text("\n".join(",".join(f"{value:.6f}" for value in row) for row in x.tolist()))


@pytest.mark.parametrize(
    ("code", "write"),
    [(PRETRAINED, write_weights), (WEIGHTED, write_json), (FROM_CSV, write_csv)],
    ids=["weights", "json", "csv"],
)
def test_another_file_behind_the_same_code_is_another_task(
    tmp_path: Path, code: str, write: Callable[[Path, int], None]
):
    found = []
    for seed in (1, 2, 1):
        write(tmp_path, seed)
        found.append(identity(tmp_path, code))
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]


NORMALISED = TASK.replace(
    'return {"train": blobs(90, 1), "test": blobs(48, 2)}',
    'found = {"train": blobs(200_000, 1), "test": blobs(48, 2)}\n'
    '        x = found["train"]["x"]\n'
    '        found["train"]["x"] = (x - x.mean()) / x.std()\n'
    "        return found",
)
ROWS_FROM_FILE = "import json\nfrom pathlib import Path\n" + TASK.replace(
    "    def show(",
    """
    def train_loss(self, model, batch):
        return super().train_loss(model, batch) * WEIGHTS[batch["row"]]

    def show(""",
).replace(
    "class Tiny",
    'WEIGHTS = torch.tensor(json.loads(Path(__file__).with_name("weights.json").read_text()))\n\n\nclass Tiny',
).replace('"y": labels}', '"y": labels, "row": torch.arange(num)}')
ROWS_OF_THE_TASK = ROWS_FROM_FILE.replace("WEIGHTS[", "self._weights[").replace(
    "    return Tiny()", "    task = Tiny()\n    task._weights = WEIGHTS\n    return task"
)
DROPOUT = "import json\nfrom pathlib import Path\n" + TASK.replace(
    "nn.ReLU()", 'nn.Dropout(json.loads(Path(__file__).with_name("weights.json").read_text())[-1])'
)
KEPT = """
class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self._scales = [1.0, torch.tensor(VALUE)]
    def get_extra_state(self):
        return {"version": 1}
    def forward(self, x):
        return x


class Tiny"""


def test_a_mean_over_all_rows_is_the_same_on_any_number_of_threads(tmp_path: Path):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            found.append(identity(tmp_path, NORMALISED))
            same_data(load_task(f"{tmp_path / 'a_task.py'}:factory"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def write_row(folder: Path, seed: int) -> None:
    """Change the weight of one row, which is none of those that are evaluated."""
    (folder / "weights.json").write_text(json.dumps([0.5] * 40 + [0.1 * seed] + [0.5] * 60))


def write_rate(folder: Path, seed: int) -> None:
    (folder / "weights.json").write_text(json.dumps([0.1 * seed]))


@pytest.mark.parametrize(
    ("code", "write"),
    [(ROWS_FROM_FILE, write_row), (ROWS_OF_THE_TASK, write_row), (DROPOUT, write_rate)],
    ids=["global", "private", "dropout"],
)
def test_values_that_no_evaluated_row_shows_count(tmp_path: Path, code: str, write: Callable[[Path, int], None]):
    found = []
    for place, seed in enumerate((1, 2, 1)):  # a process imports a file once
        folder = tmp_path / str(place)
        folder.mkdir()
        write(folder, seed)
        found.append(identity(folder, code)[0])
    assert found[0] == found[2] != found[1]


def test_what_a_module_keeps_counts_to_the_bit(tmp_path: Path):
    """With state that is no tensor, and a value that the code reads from elsewhere."""
    code = "from pathlib import Path\n" + TASK.replace("class Tiny", KEPT).replace("nn.ReLU()", "Kept()").replace(
        "VALUE", 'float(Path(__file__).with_name("value").read_text())'
    )
    found = []
    for value in ("1.0", "1.5", "1.0"):
        (tmp_path / "value").write_text(value)
        found.append(identity(tmp_path, code)[0])
    assert found[0] == found[2] != found[1]


def test_a_subclass_of_a_shipped_task_counts_with_its_own_code_alone(tmp_path: Path):
    plain, doubled = (SUBCLASS.replace("2 *", factor) for factor in ("1 *", "2 *"))
    assert identity(tmp_path, doubled)[0] != identity(tmp_path, plain)[0]
    assert identity(tmp_path, doubled)[0] == identity(tmp_path, f"# own\n{doubled}")[0]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_sees_the_same_task(tmp_path: Path, threads: str):
    here = identity(tmp_path, TASK)
    code = (
        "import sys; from tda_backend.models.tasks.registry import load_task\n"
        "from tda_backend.studies.pipeline.facts import task_facts\n"
        "facts = task_facts(load_task(sys.argv[1]), sys.argv[1]); print(facts.fingerprint, facts.displays)"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, f"{tmp_path / 'a_task.py'}:factory"],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == list(here)


SAME = [
    ("def f(a):\n    return [x for x in a]", "def f(b):\n    return [y for y in b]"),
    ("def f(a):\n    x = a\n    return lambda z: z + x", "def f(q):\n    w = q\n    return lambda k: k + w"),
    ("def f():\n    import os as o\n    return o", "def f():\n    import os as p\n    return p"),
    ("def f():\n    try: g()\n    except E as e: raise e", "def f():\n    try: g()\n    except E as x: raise x"),
    ("def f(a):\n    def g(b): return a + b\n    return g", "def f(c):\n    def h(d): return c + d\n    return h"),
]
OTHER = [
    ("def f(a):\n    return a - b", "def f(a):\n    return a - c"),
    ("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a"),
    ("def f(a):\n    return sum(w for w in a) * w", "def f(a):\n    return sum(v for v in a) * v"),
    ("def f(a):\n    return a\nf(a=1)", "def f(b):\n    return b\nf(a=1)"),
    ("class C:\n    a = 1", "class C:\n    b = 1"),
    ("def f():\n    return None", "def f():\n    return 0"),
    ("def f(a=1):\n    return a", "def f(a=1.0):\n    return a"),
    ("def f():\n    global a\n    a = 1", "def f():\n    global b\n    b = 1"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_local_names_do_not_count(tmp_path: Path, left: str, right: str):
    assert code_of(tmp_path, left) == code_of(tmp_path, right)


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_other_names_and_values_count(tmp_path: Path, left: str, right: str):
    assert code_of(tmp_path, left) != code_of(tmp_path, right)


def test_a_call_that_only_the_display_s_name_keeps_counts(tmp_path: Path):
    """It may set what the loss computes by."""
    code = PICTURES.replace('WORDS = "a point"', "WORDS = str(torch.set_default_dtype(torch.float32))")
    other = code.replace("float32))", "float64))")
    assert code != other
    assert code_of(tmp_path, code) != code_of(tmp_path, other)


def test_where_a_function_lies_in_memory_does_not_count(tmp_path: Path):
    module = "class Lambda(nn.Module):\n    def __init__(self, f):\n        super().__init__()\n        self.f = f\n"
    module += (
        "    def forward(self, x):\n        return self.f(x)\n    def extra_repr(self):\n        return repr(self.f)\n"
    )
    code = TASK.replace("nn.ReLU()", "Lambda(lambda x: x.relu())").replace("class Tiny", f"{module}\n\nclass Tiny")
    kept = [identity(tmp_path, code), load_task(f"{tmp_path / 'a_task.py'}:factory").build_model(0)]
    assert " at 0x" in repr(kept[1])
    assert identity(tmp_path, code) == kept[0]


def code_of(folder: Path, text: str) -> str:
    (folder / "code.py").write_text(text)
    return normal_code([folder / "code.py"], set())


def test_what_rounding_leaves_over_does_not_count():
    value = torch.tensor([1.0, -2.0, 1e-9, 0.0], dtype=torch.float64)
    assert rounded(value) == rounded(value * (1 + 1e-13))
    assert rounded(value) != rounded(value * (1 + 1e-4))
    assert rounded(torch.tensor([1e-17, -1e-16], dtype=torch.float64)) == rounded(torch.zeros(2, dtype=torch.float64))
    assert rounded(torch.tensor([float("nan"), 1.0])) == rounded(torch.tensor([float("nan"), 1.0]))


def test_a_changed_display_computes_nothing_and_is_shown(tmp_path: Path, cli):
    (tmp_path / "tiny.toml").write_text(STUDY)
    db = tmp_path / "c.duckdb"

    def run(code: str) -> tuple[str, str]:
        (tmp_path / "tiny_task.py").write_text(code)
        status, out, err = cli("run", tmp_path / "tiny.toml", "--db", db)
        assert status == 0, out + err
        line = next(line for line in out.splitlines() if " steps computed, " in line)
        return line, out

    run(TASK)
    scores = rows(db, "SELECT * FROM lds ORDER BY ALL")
    line, out = run(TASK.replace("a point", "one point").replace('"ant"', '"ape"').replace("labels", "kinds"))
    assert line.startswith("2 steps computed")
    assert "show examples" in out
    assert "name predictions" in out
    assert rows(db, "SELECT DISTINCT caption FROM examples") == [("one point",)]
    assert rows(db, "SELECT DISTINCT label FROM examples ORDER BY 1") == [("ape",), ("bee",), ("cat",)]
    assert rows(db, "SELECT DISTINCT prediction FROM predictions ORDER BY 1") == [("ape",), ("bee",), ("cat",)]
    assert rows(db, "SELECT class_names FROM tasks") == [(["ape", "bee", "cat"],)]
    assert rows(db, "SELECT * FROM lds ORDER BY ALL") == scores
    assert rows(db, "SELECT count(*) FROM studies") == [(1,)]
    (line, _) = run(TASK)
    assert line.startswith("0 steps computed")
    assert rows(db, "SELECT DISTINCT caption FROM examples") == [("a point",)]
    assert rows(db, "SELECT count(DISTINCT label) FROM examples WHERE label = 'ant'") == [(1,)]


def test_a_run_says_that_its_task_is_another_one_than_last_time(tmp_path: Path, cli):
    (tmp_path / "tiny.toml").write_text(STUDY)

    def out(code: str) -> str:
        (tmp_path / "tiny_task.py").write_text(code)
        status, printed, err = cli("run", tmp_path / "tiny.toml", "--db", tmp_path / "c.duckdb")
        assert status == 0, err
        return printed

    words = "computes other things than when tiny was last run"
    assert words not in out(TASK)
    assert words not in out(TASK.replace("a point", "one point"))
    changed = out(TASK.replace("torch.randn(num, 6, generator=generator)", "torch.rand(num, 6, generator=generator)"))
    assert words in changed
    assert re.search(r"tda check \S*tiny_task\.py:factory", changed)
    assert words not in out(
        TASK.replace("torch.randn(num, 6, generator=generator)", "torch.rand(num, 6, generator=generator)")
    )


def rows(db: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(db), read_only=True) as connection:
        return connection.execute(sql).fetchall()
