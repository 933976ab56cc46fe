"""The command line as a stable contract: help with examples, exit codes, JSON, one-line errors with hints."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import duckdb
import pytest

from tda_backend.interfaces.cli import dashboard as server
from tda_backend.interfaces.cli.main import build_parser, main
from tda_backend.interfaces.cli.verbs import studies
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.runs.conftest import TASK, make_study, tda

COMMANDS = [
    "run",
    "plan",
    "machine",
    "demo",
    "serve",
    "stop",
    "studies",
    "show",
    "select",
    "papers",
    "export",
    "check",
    "doctor",
    "verify",
    "backup",
    "restore",
    "rebuild",
    "rm",
    "methods",
]
SELECT_KEYS = {
    "method",
    "training_epoch",
    "projection_dim",
    "alpha",
    "lambda_selected",
    "xi_at_selected",
    "lds_selected",
    "lds_selected_ci",
    "lambda_best",
    "lds_best",
    "regret",
    "lds_at_zero",
    "quantiles",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"Example: tda {command}" in capsys.readouterr().out


def test_help_lists_all_commands():
    text = build_parser().format_help()
    assert all(command in text for command in COMMANDS)


def test_select_json_is_the_stated_contract(computed: Workspace, cli):
    code, out, _ = cli("select", "tiny", "--db", computed.catalogue, "--json")
    assert code == 0
    records = json.loads(out)
    assert len(records) == 14  # 7 configurations with λ, two fractions
    for record in records:
        assert record.keys() >= SELECT_KEYS
        assert set(record["quantiles"]) == {"0.1", "0.3", "0.5", "0.7", "0.9"}
        assert all({"lambda", "lds"} <= set(entry) for entry in record["quantiles"].values())
        assert record["regret"] >= 0
        assert len(record["lds_selected_ci"]) == 2
    assert {record["method"] for record in records} == {"iffim", "trak"}
    assert None in [record["projection_dim"] for record in records]
    code, out, _ = cli("select", "tiny", "--db", computed.catalogue, "--json", "--alpha", "0.25")
    assert {record["alpha"] for record in json.loads(out)} == {0.25}


def test_show_json_has_configurations_with_lds(computed: Workspace, cli):
    code, out, _ = cli("show", "tiny", "--db", computed.catalogue, "--json")
    assert code == 0
    study = json.loads(out)
    assert study["status"] == "complete"
    assert study["bytes"] > 0
    assert len(study["configurations"]) == 9
    tracin = [row for row in study["configurations"] if row["method"] == "tracin"]
    assert [row["parameters"]["normalization"] for row in tracin] == [False, True]
    assert tracin[0]["lds"][0]["regularization"] is None
    assert all(row["lds"][0]["num_subsets"] == 24 for row in study["configurations"])
    assert {row["step"] for row in study["timings"]} >= {"train", "retrain", "features", "spectrum", "evaluate"}


@pytest.mark.parametrize("words", [["studies"], ["show", "tiny"], ["select", "tiny"], ["methods"], ["doctor"]])
def test_tables_are_printed_and_json_parses(computed: Workspace, cli, words: list[str]):
    code, out, err = cli(*words, "--db", computed.catalogue)
    assert (code, err) == (0, "")
    assert out.strip()
    code, out, _ = cli(*words, "--db", computed.catalogue, "--json")
    assert code == 0
    assert json.loads(out)


def test_methods_as_json_has_the_fields_that_scripts_read(cli):
    _, out, _ = cli("methods", "--json")
    fields = (
        "name title recipe curve features curvature reduction formula cost reference filter_name needs "
        "has_self_influence default_regularization has_regularization hyperparameters"
    )
    of_settings = "name kind meaning default grid low high choices sweep in_filter range"
    for row in json.loads(out):
        assert list(row) == fields.split()
        assert all(list(item) == of_settings.split() for item in row["hyperparameters"])


def test_methods_prints_formulas_whole(cli):
    _, out, _ = cli("methods")
    assert "[mean_m" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["run"], 2, "Nothing to run"),
        (["run", "mnist-mpl"], 2, "mnist-mlp"),
        (["run", "nowhere.toml"], 2, "nowhere.toml"),
        (["run", "mnist-mlp", "--set", "data.trian=5"], 2, "data.train"),
        (["run", "mnist-mlp", "--set", "data.train=9000"], 2, "7000"),
        (["run", "mnist-mlp", "--set", "data.queries=1900"], 2, "disjoint"),
        (
            [
                "run",
                "mnist-mlp",
                "--set",
                "training.epochs=[1, 99]",
                "--set",
                "methods.iffim.epochs=[1]",
                "--set",
                "methods.trak.epochs=[1]",
                "--set",
                "methods.trak.unprojected_epochs=[1]",
                "--set",
                "methods.tracin.epochs=[1]",
            ],
            2,
            "epochs 1 to 50",
        ),
        (["run", "--task", "mnist-cnn"], 2, "mnist-mlp"),
        (["run", "--task", "none.py:factory"], 1, "none.py"),
        (["run", "mnist-mlp", "--device", "tpu"], 2, "tpu"),
        (["run", "mnist-mlp", "--device", "mps"], 1, "--device cpu"),
        (["run", "mnist-mlp", "--memory", "-1"], 2, "--memory"),
        (["show", "tiny2"], 2, "tiny"),
        (["select", "tiny", "--alpha", "0.7"], 2, "0.25"),
        (["check", "mnist-cnn"], 2, "mnist-lr"),
        (["rm"], 2, "--unused"),
        (["rm", "tiny"], 2, "--yes"),
        (["rm", "tin", "--yes"], 2, "tiny"),
        (["frobnicate"], 2, "run"),
        (["studies", "--jsn"], 2, "--jsn"),
        (["serve", "--port", "99999999"], 2, "65535"),
    ],
)
def test_mistakes_get_one_line_a_hint_and_the_right_exit_code(
    computed: Workspace, cli, monkeypatch, tmp_path, words: list[str], code: int, expected: str
):
    monkeypatch.setattr(server, "find_dashboard", lambda: tmp_path / "main.py")
    found, out, err = cli(*words, *([] if words == ["frobnicate"] else ["--db", computed.catalogue]))
    assert found == code, err
    assert expected in err
    lines = err.splitlines()
    assert lines[0].startswith("tda: ")
    assert lines[-1].startswith("hint: ")
    assert len(lines) == 2
    assert "Traceback" not in out + err


def test_a_broken_task_file_is_one_line(tmp_path: Path, cli):
    path = tmp_path / "broken.py"
    path.write_text("import no_such_module_at_all\n")
    code, _, err = cli("run", "--task", f"{path}:factory", "--db", tmp_path / "c.duckdb")
    assert code == 1
    assert "no_such_module_at_all" in err
    assert len(err.splitlines()) == 2


def test_nan_in_the_data_names_split_count_and_place(tmp_path: Path, cli):
    path = tmp_path / "nan.py"
    path.write_text(TASK.replace('"y": labels}', '"y": labels} | {"x": torch.full((num, 6), float("nan"))}'))
    code, _, err = cli("run", "--task", f"{path}:factory", "--db", tmp_path / "c.duckdb")
    assert code == 1
    assert "train" in err
    assert "90" in err or "540" in err
    assert len(err.splitlines()) == 2


def test_debug_shows_the_traceback(computed: Workspace):
    from tda_backend.errors import UsageError

    with pytest.raises(UsageError):
        main(["show", "nope", "--db", str(computed.catalogue), "--debug"])


def test_an_unexpected_error_is_one_line_too(computed: Workspace, cli, monkeypatch):
    def broken(*_: object) -> int:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(studies, "run", broken)
    code, _, err = cli("studies")
    assert code == 1
    assert "by nought" in err
    assert "--debug" in err


def test_default_study_of_a_persons_own_task(tmp_path: Path, cli):
    make_study(tmp_path)
    db = tmp_path / "c.duckdb"
    task = f"{tmp_path / 'tiny_task.py'}:factory"
    code, out, err = cli("run", "--task", task, "--quick", "--db", db, "--set", "ground_truth.subsets=4")
    assert code == 0, err
    assert "tiny-quick" in out
    code, out, _ = cli("select", "tiny", "--json", "--db", db)
    assert code == 0
    assert json.loads(out)


def test_check_a_task(tmp_path: Path, cli):
    make_study(tmp_path)
    code, out, _ = cli("check", f"{tmp_path / 'tiny_task.py'}:factory", "--json")
    assert code == 0
    assert all(row["passed"] for row in json.loads(out))


@pytest.mark.parametrize("damage", ["missing", "truncated", "newer"])
def test_rebuild_brings_everything_back(copied: Workspace, cli, damage: str):
    _, before, _ = cli("select", "tiny", "--db", copied.catalogue, "--json")
    if damage == "missing":
        copied.catalogue.unlink()
    elif damage == "truncated":
        copied.catalogue.write_bytes(copied.catalogue.read_bytes()[:5000])
    else:
        with duckdb.connect(str(copied.catalogue)) as connection:
            connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    code, _, err = cli("select", "tiny", "--db", copied.catalogue)
    assert code == 1
    assert "tda rebuild" in err
    assert len(err.splitlines()) == 2
    code, out, _ = cli("rebuild", "--db", copied.catalogue)
    assert code == 0
    assert "1 studies, 31 steps" in out
    assert cli("select", "tiny", "--db", copied.catalogue, "--json")[1] == before


def test_doctor_finds_and_repairs(copied: Workspace, cli):
    store = ArtifactStore(copied.artifacts)
    key = next(key for key in store.all_keys() if store.open(key).step == "retrain")
    path = store.path(key) / "outputs.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    copied.catalogue.write_bytes(b"x" * 5000)
    code, out, _ = cli("doctor", "--db", copied.catalogue)
    assert code == 1
    assert "outputs.npy does not match its checksum" in out
    code, out, _ = cli("doctor", "--repair", "--db", copied.catalogue)
    assert code == 0
    assert out.count("repaired") == 2
    code, out, _ = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0
    assert "1 steps computed" in out
    assert cli("doctor", "--db", copied.catalogue)[0] == 0


def test_rm_frees_only_what_no_other_study_uses(copied: Workspace, cli):
    assert (
        cli("run", "tiny", "--db", copied.catalogue, "--set", "name=other", "--set", "regularization.count=4")[0] == 0
    )
    store = ArtifactStore(copied.artifacts)
    shared = {key for key in store.all_keys() if store.open(key).step in ("train", "retrain", "spectrum", "features")}
    code, out, _ = cli("rm", "other", "--yes", "--db", copied.catalogue)
    assert code == 0
    assert out.startswith("Freed ")
    assert shared <= set(store.all_keys())
    code, out, _ = cli("studies", "--json", "--db", copied.catalogue)
    assert [row["name"] for row in json.loads(out)] == ["tiny"]
    assert cli("rm", "tiny", "--yes", "--db", copied.catalogue)[0] == 0
    assert store.all_keys() == []


def test_a_port_in_use_is_named_with_another(tmp_path: Path, cli, monkeypatch):
    monkeypatch.setattr(server, "find_dashboard", lambda: tmp_path / "main.py")
    with socket.socket() as taken:
        taken.bind((server.ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = cli("serve", "--port", str(port), "--db", tmp_path / "c.duckdb")
    assert code == 1
    assert f"Port {port} is in use" in err
    assert f"--port {port + 1}" in err


def test_a_foreign_module_named_app_is_recognised(tmp_path: Path, monkeypatch):
    foreign = tmp_path / "site" / "app"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("")
    monkeypatch.setattr(server, "__file__", str(tmp_path / "site" / "tda_backend" / "runs" / "server.py"))
    with pytest.raises(server.MachineError, match="not the dashboard"):
        server.find_dashboard()


def test_a_foreign_app_on_the_path_comes_after_ours(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    permissions = server.Permissions(read_only=True, token="t")
    environment = server.dashboard_environment(Workspace.at(tmp_path / "c.duckdb"), permissions, tmp_path / "log")
    first, second = environment["PYTHONPATH"].split(":")
    assert (Path(first) / "tda_backend").is_dir()
    assert second == str(tmp_path)
    assert environment["PYTHONSAFEPATH"] == "1"


@pytest.mark.slow
@pytest.mark.shipped_data
def test_the_quick_demo_study_runs_whole(tmp_path_factory: pytest.TempPathFactory):
    shared = catalogues.once(tmp_path_factory, "quick", catalogues.compute_quick)  # `tda run mnist-mlp --quick`
    result = tda("select", "mnist-mlp-quick", "--json", db=shared.catalogue)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)) == 8
