"""Times on another machine: passes measured here, at the rates that a file gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tda_backend.errors import UsageError
from tda_backend.models.measuring.files import NamedMachine, read_machine, this_machine
from tda_backend.models.measuring.machine import Machine, machine
from tda_backend.models.measuring.pace import Line, Pace

HERE = Machine(single=40e9, double=20e9, eigh=2e9, copied=4e9, calls=1e6, threads=2)
PACE = Pace(
    HERE,
    kept_bytes=5.0,
    forward_seconds=Line(1e-4, 2e-6),
    backward_seconds=Line(3e-4, 6e-6),
    step_seconds=Line(5e-4, 6e-6),
)
OPERATIONS = 6e4
"""Of a row: 3 µs at 20 GFLOP/s a thread, half of what it takes."""


def test_the_same_machine_takes_what_it_takes_here():
    for name in ("forward_seconds", "backward_seconds", "step_seconds"):
        line, same = getattr(PACE, name), getattr(PACE.on(HERE, OPERATIONS), name)
        assert (same.call, same.row) == pytest.approx((line.call, line.row))
    assert PACE.on(HERE, OPERATIONS).kept_bytes == PACE.kept_bytes


def test_operations_calls_and_copies_go_by_rates_of_their_own():
    there = PACE.on(replace(HERE, single=10 * 40e9), OPERATIONS).backward_seconds
    assert there.row == pytest.approx(3e-6 / 10 + 3e-6)
    assert there.call == pytest.approx(3e-4)
    assert PACE.on(replace(HERE, copied=2 * 4e9), OPERATIONS).backward_seconds.row == pytest.approx(3e-6 + 3e-6 / 2)
    assert PACE.on(replace(HERE, calls=3e6), OPERATIONS).step_seconds.call == pytest.approx(5e-4 / 3)
    one_thread = replace(HERE, single=20e9, threads=1)  # as fast as each of two here
    assert PACE.on(one_thread, OPERATIONS).forward_seconds.row == pytest.approx(2e-6)


def test_rows_that_only_compute_are_scaled_as_a_whole():
    most = 1e9  # more than the rate allows: counted operations are an estimate
    assert PACE.on(replace(HERE, single=4 * 40e9), most).backward_seconds.row == pytest.approx(6e-6 / 4)


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    file = tmp_path / "server.json"
    named = NamedMachine("server", "cuda", HERE)
    file.write_text(json.dumps(named.to_json()))
    assert read_machine(file) == named
    assert this_machine("here", "cpu") == NamedMachine("here", "cpu", machine("cpu"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is not the file of a machine"),
        ("[1]", "is not the file of a machine"),
        (json.dumps({"name": "a", "device": "cpu", "single": 1.0}), "is not the file of a machine"),
        (json.dumps({**NamedMachine("a", "cpu", HERE).to_json(), "eigh": 0}), "eigh of a machine is wrong"),
        (json.dumps({**NamedMachine("a", "cpu", HERE).to_json(), "copied": "4"}), "copied of a machine is wrong"),
        (json.dumps({**NamedMachine("a", "cpu", HERE).to_json(), "single": float("nan")}), "single of a machine"),
        (json.dumps({**NamedMachine("a", "cpu", HERE).to_json(), "name": 3}), "name or device of a machine is wrong"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, message: str):
    file = tmp_path / "machine.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_machine(file)
    assert "tda machine --json" in (caught.value.hint or "")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"absent\.json cannot be read: No such file"):
        read_machine(tmp_path / "absent.json")


def test_a_plan_says_what_another_machine_takes(tmp_path: Path, cli):
    study, db = "mnist-mlp", tmp_path / "c.duckdb"
    code, out, _ = cli("machine", "--name", "here", "--json", "--device", "cpu")
    assert code == 0
    rates = json.loads(out)
    slow = tmp_path / "slow.json"
    changed = {name: rates[name] / 10 for name in ("single", "double", "eigh", "copied", "calls")}
    slow.write_text(json.dumps({**rates, **changed, "name": "slow"}))
    code, out, _ = cli("plan", study, "--db", db, "--json", "--machine", slow, "--device", "cpu")
    plan = json.loads(out)
    assert code == 0
    assert plan["machine"] == "slow"
    assert plan["seconds_there"] == pytest.approx(sum(step["seconds_there"] for step in plan["steps"]))
    assert 1.2 * plan["seconds"] < plan["seconds_there"] <= 10.001 * plan["seconds"]  # what files take stays
    code, plain, _ = cli("plan", study, "--db", db, "--json", "--device", "cpu")
    assert [step["label"] for step in json.loads(plain)["steps"]] == [step["label"] for step in plan["steps"]]
    assert "machine" not in json.loads(plain)
    code, out, _ = cli("plan", study, "--db", db, "--machine", slow, "--device", "cpu")
    assert code == 0
    assert "time on slow" in out
    assert "at the rates in its file" in out


def test_rates_are_printed_for_people(cli):
    code, out, _ = cli("machine", "--name", "mine", "--device", "cpu")
    assert code == 0
    assert "mine (cpu" in out
    assert "GFLOP/s" in out
