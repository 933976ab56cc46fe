"""A configuration that cannot be computed: what is judged from all of them is judged from the others, for the time."""

from __future__ import annotations

import pytest

from tda_backend.errors import NumericalError
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.papers import verdicts as papers
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.contract.claim import NOT_RUN
from tda_backend.studies.steps.evaluate import Evaluate
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore, provisional_key
from tda_backend.studies.store.rebuild import disk_use, rebuild
from tda_backend.studies.store.repository import query
from tda_backend.studies.store.workspace import Workspace
from tests.runs.conftest import TASK

STUDY = """
name = "half"
task = "tiny_task.py:factory"
[data]
train = 40
validation = 8
queries = 6
[training]
epochs = [2, 4]
[ground_truth]
subsets = 12
[regularization]
count = 4
[evaluation]
bootstrap = 20
[methods.iffim]
projection_dim = [8, "none"]
[methods.tracin]
[[claims]]
id = "of-the-others"
paper = "taming"
place = "Figure 2"
statement = "The best λ is better than λ = 0."
check = "greater"
left = {method = "iffim", projection_dim = 8, regularization = "best"}
right = {method = "iffim", projection_dim = 8, regularization = "zero"}
[[claims]]
id = "of-all"
paper = "taming"
place = "Figure 2"
statement = "λ* is near the best."
check = "regret"
methods = ["iffim"]
left = "selected"
note = "a note"
"""
TABLES = ("rules", "tuning", "races", "verdicts")


@pytest.fixture
def half(tmp_path, monkeypatch, capsys):
    """The study, run while the evaluation of unprojected IFFIM at epoch 4 fails; with what was said."""
    (tmp_path / "tiny_task.py").write_text(TASK)
    (tmp_path / "half.toml").write_text(STUDY)
    evaluate = Evaluate.run

    def failing(step: Evaluate, context, writer) -> None:
        if "unprojected · epoch 4" in step.label:
            raise NumericalError("It is broken.", "Mend it.")
        evaluate(step, context, writer)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluate, "run", failing)
        assert main(["run", str(tmp_path / "half.toml"), "--db", str(tmp_path / "c.duckdb")]) == 1
    return Workspace.at(tmp_path / "c.duckdb"), capsys.readouterr()


def counts(place: Workspace) -> dict[str, int]:
    return {table: int(query(place, f"SELECT count(*) AS num FROM {table}")["num"][0]) for table in TABLES}


def again(place: Workspace) -> int:
    return main(["run", str(place.folder / "half.toml"), "--db", str(place.catalogue)])


def broken_of(place: Workspace) -> str:
    frame = open_study("half", place).configurations()
    row = frame.loc[(frame["method"] == "iffim") & frame["projection_dim"].isna() & (frame["training_epoch"] == 4)]
    return row["configuration_id"].item()


def test_the_others_are_judged(half):
    place, said = half
    assert "all else is kept. It is broken." in said.err
    study, broken = open_study("half", place), broken_of(half[0])
    others = set(study.configurations().loc[lambda f: f["has_regularization"], "configuration_id"]) - {broken}
    assert set(study.rules()["configuration_id"]) == others
    assert broken not in set(study.tuning()["configuration_id"])
    assert study.race()["num_candidates"] > 0
    verdicts = study.verdicts().set_index("claim_id")
    assert verdicts.loc["of-the-others", "verdict"] != NOT_RUN
    assert verdicts.loc["of-the-others", "numbers"]
    lost = verdicts.loc["of-all"]
    assert lost["verdict"] == NOT_RUN
    assert not lost["numbers"]
    assert "unprojected · epoch 4" in lost["note"]
    assert "It is broken." in lost["note"]
    overview = query(place, "SELECT steps_total FROM studies")["steps_total"][0]
    done = int(query(place, "SELECT count(*) AS num FROM ingested")["num"][0]) - 1
    assert done == overview - 1  # all but the evaluation that failed


def test_a_claim_that_could_not_be_judged_counts_as_not_run(half, tmp_path, monkeypatch):
    place, _ = half
    (tmp_path / "data" / "studies").mkdir(parents=True)
    (tmp_path / "data" / "studies" / "half.toml").write_text(STUDY)
    monkeypatch.setenv("TDA_DATA", str(tmp_path / "data"))
    claims = papers.paper_claims(place).set_index("claim_id")
    assert claims["origin"].to_dict() == {"of-the-others": "computed here", "of-all": NOT_RUN}
    assert "It is broken." in claims.loc["of-all", "note"]
    assert main(["papers", "--db", str(place.catalogue)]) == 0


def test_a_whole_run_replaces_what_was_judged_from_the_others(half, capsys):
    place, _ = half
    partial = counts(place)
    assert again(place) == 0
    whole = counts(place)
    assert whole["rules"] > partial["rules"]
    assert whole["tuning"] > partial["tuning"]
    assert whole["races"] == partial["races"] == 1
    assert whole["verdicts"] == partial["verdicts"] == 2
    verdicts = open_study("half", place).verdicts().set_index("claim_id")
    assert (verdicts["verdict"] != NOT_RUN).all()
    assert verdicts.loc["of-all", "note"] == "a note"
    keys = query(place, "SELECT artifact FROM ingested")["artifact"].tolist()
    store = ArtifactStore(place.artifacts)
    assert not any(store.has(provisional_key(key)) for key in keys)
    assert disk_use(place).unused == 0
    assert again(place) == 0
    assert counts(place) == whole


def test_what_was_judged_from_the_others_is_kept_by_a_rebuild(half):
    place, _ = half
    before = counts(place)
    assert disk_use(place).unused == 0
    place.catalogue.unlink()
    rebuild(place, KINDS)
    assert counts(place) == before
    assert again(place) == 0
    assert (open_study("half", place).verdicts()["verdict"] != NOT_RUN).all()
