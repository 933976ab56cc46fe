"""The matrix over all kinds of step: every row of the table of kinds goes through every test here."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tda_backend.interfaces.papers.shipped import ShippedResults, export_results, shipped_results
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.executor import Outcome
from tda_backend.studies.pipeline.plan import DTYPE
from tda_backend.studies.pipeline.step import Cost, Step
from tda_backend.studies.runs.recompute import recompute
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import catalogue, repository
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.inbox import FinishedStep
from tda_backend.studies.store.ingest import apply_drop
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.tables.base import Table
from tda_backend.studies.store.workspace import Workspace
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import Watch, watching, without_float64
from tests.steps.changes import is_about, is_input, others
from tests.steps.conftest import Everything

SHARE = 0.95
"""Of the products and decompositions of a kind of step that run on the study's device."""
COMMON = {"task": "a task", "dtype": DTYPE, "device": "cpu", "torch": "2.0"}
"""What the key of every step depends on."""
WRITTEN = [(kind, table) for kind, owner in KINDS.items() for table in owner.TABLES]
SHIPPED = [(kind, table) for kind, table in WRITTEN if table.shipped]
OF_EVERY_STEP = {"label", "cost", "key", "missing"}
SERVED = {"configurations", "seed_index"}
ABOUT: dict[str, set[str]] = {
    "train": {"seed_index"},
    "spectrum": SERVED,
    "curvature": SERVED,
    "kronecker": SERVED,
    "scores": SERVED,
    "evaluate": {"configuration_id", "num_subsets"},
    "rules": {"configurations"},
    "claims": {"configurations"},
    "removal-order": {"configuration_id", "curve"},
    "removal": {"configuration_id", "curve"},
    "loo-scores": {"configuration_id"},
    "detect": {"configuration_id"},
    "trajectory-influence": {"seed_index"},
    "trajectory-truth": {"seed_index"},
    "trajectory-proxy": {"seed_index"},
    "trajectory-comparison": {"learning_rate", "seed_index"},
    "lookahead": {"seed_index"},
    "name-predictions": {"seed_index"},
}
"""Kind → its own fields that change no key: results do not depend on them, or a setting or input says the same."""
EMPTY: dict[str, set[str]] = {
    "examples": {"image"},  # they are texts
    "races": {"regularization"},  # a method without λ may win
}
"""Table → columns that this study leaves empty."""
CLOCKS = {"seconds"}
"""Columns that hold how long something took."""

SAID_BY_INPUTS: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("evaluate", "parameters"): lambda step: step.grid is None,
}
"""(kind, setting) → whether a step leaves it to the keys of its inputs: score matrices were made with parameters."""

of_every_kind = pytest.mark.parametrize("kind", KINDS)
of_every_table = pytest.mark.parametrize(("kind", "table"), WRITTEN, ids=lambda each: getattr(each, "name", each))


@of_every_kind
def test_the_study_of_this_matrix_makes_every_kind(kind: str, everything: Everything):
    assert everything.of(kind), f"tests/steps/one_of_each.py makes no step of the kind {kind}"
    assert kind == KINDS[kind].NAME
    assert all(isinstance(step, KINDS[kind]) for step in everything.of(kind))


def _never(step: Step) -> bool:
    return False


def key_of(step: Step, **common: str) -> str:
    return step.keyed({**COMMON, **common}).key


def varied(steps: Iterable[Step], name: str) -> Iterable[tuple[Step, Step]]:
    """Yield (step, the same with another value of one field)."""
    for step in steps:
        for other in others(getattr(step, name)):
            yield step, replace(step, **{name: other})


@of_every_kind
def test_the_key_depends_on_every_setting(kind: str, everything: Everything):
    for name in [each.name for each in fields(KINDS[kind]) if not is_input(each) and not is_about(each)]:
        steps = [step for step in everything.of(kind) if not SAID_BY_INPUTS.get((kind, name), _never)(step)]
        steps = [step for step in steps if getattr(step, name) is not None] or steps[:1]
        pairs = list(varied(steps, name))
        assert pairs, f"say what another {name} is"
        deaf = [(getattr(step, name), getattr(other, name)) for step, other in pairs if key_of(step) == key_of(other)]
        assert not deaf, (name, deaf[:3])


@of_every_kind
def test_the_key_depends_on_every_input(kind: str, everything: Everything):
    for name in [each.name for each in fields(KINDS[kind]) if is_input(each)]:
        given = [step for step in everything.of(kind) if getattr(step, name)]
        deaf = [other for step, other in varied(given, name) if key_of(step) == key_of(other)]
        assert not deaf, (name, deaf[:3])
    for step in everything.of(kind):
        read = {each.key for each in step.all_inputs()}
        assert read <= {each.key for each in everything.plan.steps}
        assert set(everything.store.open(step.key).inputs) == read


@of_every_kind
def test_the_key_depends_on_version_name_and_on_what_all_steps_share(kind: str, everything: Everything):
    step, owner = everything.of(kind)[0], KINDS[kind]
    given = {each.name: getattr(step, each.name) for each in fields(step)}
    later = type("Later", (owner,), {"VERSION": owner.VERSION + 1})(**given)
    assert key_of(later) != key_of(step)
    for name in COMMON:
        assert key_of(step, **{name: "another"}) != key_of(step)
    assert key_of(step) == key_of(replace(step, key="")) != step.key
    assert len({each.key for each in everything.plan.steps}) == len(everything.plan.steps)


@of_every_kind
def test_the_key_does_not_depend_on_what_is_for_people(kind: str, everything: Everything):
    step = everything.of(kind)[0]
    told = {each.name: next(others(getattr(step, each.name))) for each in fields(step) if is_about(each)}
    assert set(told) == OF_EVERY_STEP | ABOUT.get(kind, set())
    assert key_of(replace(step, **told)) == key_of(step)
    assert key_of(replace(step, cost=Cost(1e6, 9.0, 3))) == key_of(step)


@of_every_kind
def test_a_result_is_kept_and_a_second_run_computes_nothing(kind: str, everything: Everything, again: Outcome):
    labels = {step.label for step in everything.of(kind)}
    assert labels <= set(everything.outcome.computed)
    assert labels <= set(again.cached)
    assert not again.computed
    for step in everything.of(kind):
        artifact = everything.store.open(step.key)
        assert (artifact.step, artifact.fact("version")) == (kind, KINDS[kind].VERSION)
        assert artifact.files
        assert not artifact.problems(thorough=True)


@pytest.fixture(scope="module")
def again(everything: Everything) -> Outcome:
    return everything.run()


@dataclass(frozen=True)
class Damaged:
    """What a run makes of a workspace in which one result of every kind is damaged.

    Attributes:
        steps: Kind → the step whose result is.
        noticed: Kind → whether its result was no longer usable.
        store: After the run.
        outcome: Of the run.
    """

    steps: dict[str, Step]
    noticed: dict[str, bool]
    store: ArtifactStore
    outcome: Outcome


@pytest.fixture(scope="module")
def damaged(everything: Everything, tmp_path_factory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged") / "workspace"
    shutil.copytree(everything.workspace.folder, folder)
    workspace = Workspace.at(folder / everything.workspace.catalogue.name)
    store = ArtifactStore(workspace.artifacts)
    steps = {kind: everything.of(kind)[-1] for kind in KINDS}
    for step in steps.values():
        _turn_one_byte(store.open(step.key))
    noticed = {kind: bool(store.open(step.key).problems(thorough=True)) for kind, step in steps.items()}
    return Damaged(steps, noticed, store, everything.run(workspace))


def _turn_one_byte(artifact: Artifact) -> None:
    sizes = {name: file.bytes for name, file in artifact.files.items()}
    path = artifact.folder / max(sizes, key=lambda name: sizes[name])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@of_every_kind
def test_a_damaged_result_is_noticed_and_computed_again(kind: str, everything: Everything, damaged: Damaged):
    step = damaged.steps[kind]
    assert damaged.noticed[kind]
    assert step.label in damaged.outcome.computed
    assert len(damaged.outcome.computed) == len(KINDS)
    assert list(damaged.store.damaged.glob(f"{step.key}-*"))
    renewed, before = damaged.store.open(step.key), everything.store.open(step.key)
    assert not renewed.problems(thorough=True)
    assert set(renewed.files) == set(before.files)
    for name in before.files:
        assert _same_file(renewed, before, name), name


def _same_file(left: Artifact, right: Artifact, name: str) -> bool:
    if not name.endswith(".parquet"):
        return left.files[name].sha256 == right.files[name].sha256
    first, second = (_rows(each.table(name.removesuffix(".parquet"))) for each in (left, right))
    return first == second


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows that can be compared: no clocks, and NaN equal to itself."""
    return [
        {name: _comparable(value) for name, value in row.items() if name not in CLOCKS} for row in table.to_pylist()
    ]


def _comparable(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return [_comparable(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def connection(tmp_path: Path):
    """A new catalogue without rows."""
    with catalogue.writing(Workspace.at(tmp_path / "new.duckdb").create()) as opened:
        yield opened


@of_every_table
def test_what_a_step_writes_is_read_back_from_the_catalogue(
    kind: str, table: Table, everything: Everything, connection: duckdb.DuckDBPyConnection
):
    types = dict(connection.execute(f'SELECT column_name, column_type FROM (DESCRIBE "{table.name}")').fetchall())
    assert types == {column.name: column.type.sql for column in table.columns}
    own = [column.name for column in table.columns if not column.given]
    total = 0
    for step in everything.of(kind):
        artifact = everything.store.open(step.key)
        # A study of its own: within one, a step may replace the rows of another.
        apply_drop(connection, everything.store, FinishedStep(step.key, step.key, step.label, step.context()), KINDS)
        select = table.select(where=["study_id"], columns=own, order="rowid")
        read = connection.execute(select, [step.key]).to_arrow_table()
        total += read.num_rows
        if artifact.has(f"{table.name}.parquet"):
            written = artifact.table(table.name)
            assert written.schema.remove_metadata().equals(_declared(table, written)), step.label
            assert _rows(read.select(written.column_names).cast(_declared(table, written))) == _rows(written)
    assert total, f"no step of the kind {kind} has written {table.name}"


def _declared(table: Table, rows: pa.Table) -> pa.Schema:
    """Return the declared schema in the order of some rows."""
    assert set(rows.column_names) == set(table.schema.names)
    return pa.schema([table.schema.field(name) for name in rows.column_names])


@of_every_table
def test_every_column_has_a_value_somewhere(kind: str, table: Table, everything: Everything):
    """A column that a step no longer fills is NULL in every row."""
    names = ", ".join(f'count("{column.name}")' for column in table.columns)
    frame = repository.query(everything.workspace, f'SELECT {names} FROM "{table.name}"')
    counts = dict(zip(table.names, frame.iloc[0].tolist(), strict=True))
    empty = {name for name, count in counts.items() if not count} - EMPTY.get(table.name, set())
    assert not empty


@pytest.fixture(scope="module")
def exported(everything: Everything, tmp_path_factory) -> ShippedResults:
    folder = tmp_path_factory.mktemp("shipped")
    name = everything.plan.name
    export_results(open_study(name, everything.workspace.catalogue), folder)
    return shipped_results(name, folder)


@pytest.mark.parametrize(("kind", "table"), SHIPPED, ids=lambda each: getattr(each, "name", each))
def test_exported_results_are_those_of_the_catalogue(
    kind: str, table: Table, everything: Everything, exported: ShippedResults
):
    names = [f'"{name}"' for name in table.names if name != "study_id"]
    sql = f'SELECT {", ".join(names)} FROM "{table.name}" WHERE study_id = ? AND ({table.shipped}) ORDER BY rowid'
    inside = repository.query(everything.workspace, sql, [everything.plan.study_id])
    assert len(inside)
    shipped = exported.tables[table.name]
    assert list(shipped.columns) == [name.strip('"') for name in names]
    assert _rows(pa.Table.from_pandas(shipped)) == _rows(pa.Table.from_pandas(inside))


def test_nothing_else_is_exported_than_what_tables_say(exported: ShippedResults):
    assert set(exported.tables) <= {table.name for table in ALL if table.shipped}


@pytest.mark.parametrize("kind", KINDS)
def test_another_device_gives_the_same_results_and_does_the_work(
    kind: str, everything: Everything, monkeypatch: pytest.MonkeyPatch
):
    watches: list[Watch] = []

    def watched(*given) -> float:
        with watching() as watch:
            watches.append(watch)
            return compute(*given)

    monkeypatch.setattr("tda_backend.studies.runs.recompute.compute", watched)
    found = list(recompute(replace(everything.plan, device=STAND_IN), everything.store, everything.of(kind)))
    assert [(each.label, each.where, each.deviation) for each in found if not each.agrees] == []
    assert found
    device, cpu = sum(watch.device for watch in watches), sum(watch.cpu for watch in watches)
    assert cpu <= (1 - SHARE) * (device + cpu), f"{device:g} on the device; {[watch.most for watch in watches]}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_without_float64_gives_the_same_results(kind: str, everything: Everything):
    """What takes float64 is computed on the CPU beside it."""
    with without_float64(), watching():
        plan = replace(everything.plan, device=STAND_IN)
        found = list(recompute(plan, everything.store, everything.of(kind)))
    assert [(each.label, each.where, each.deviation) for each in found if not each.agrees] == []
    assert found
