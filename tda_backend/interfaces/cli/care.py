"""What ``tda doctor`` finds in a workspace, and how it mends it. Nothing that a person made is deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tda_backend.errors import ArtifactError, CatalogueError, TDAError
from tda_backend.interfaces.cli.printing import size
from tda_backend.studies.jobs import jobs
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.pipeline.courier import take_in
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import catalogue, owners, rebuild, repository
from tda_backend.studies.store.artifacts import ArtifactStore, folder_bytes
from tda_backend.studies.store.inbox import offer_again, pending_drops, refused_drops
from tda_backend.studies.store.tables.base import quoted
from tda_backend.studies.store.workspace import Workspace

STOP = "Stop the dashboard, then run `tda doctor --repair`."
LEFTOVER_SECONDS = 60.0
NUM_NAMED = 5
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``note``, ``problem`` or ``repaired``.
        detail: What was found, and what to do.
    """

    name: str
    state: str
    detail: str


def examine_workspace(workspace: Workspace, repair: bool) -> list[Finding]:
    """Look at all that lies in a workspace, each part in a state that the ones before it leave."""
    parts = (_server_file, _leftovers, _artifacts, _quarantine, _catalogue, _snapshot, _missing, _inbox, _jobs)
    return [finding for part in parts for finding in part(workspace, repair)]


def _aside(path: Path) -> Path:
    """Move a file out of the way, beside its place, and return where it is now."""
    target = path.with_name(f"{path.name}.set-aside-{uuid.uuid4().hex[:6]}")
    path.replace(target)
    return target


def _server_file(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    path, owner = workspace.server_file, owners.owner_process(workspace)
    if not path.exists() or owners.server_lives(workspace):
        return
    if owner is not None and not owners.same_process(owner.pid, owner.create_time):
        found = f"{path} names process {owner.pid}, which is gone"
    elif owner is not None:
        found = f"{path} names process {owner.pid}, which does not have the catalogue open"
    else:
        found = f"{path} is no file of a dashboard"
    if repair:
        yield Finding("server", "repaired", f"{found}. Moved to {_aside(path).name}.")
    else:
        yield Finding("server", "problem", f"{found}. `tda doctor --repair` moves it away.")


def _leftovers(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Find what killed processes have left: half-written files that nobody reads."""
    places = (workspace.folder, workspace.jobs, workspace.inbox)
    patterns = (".*.tmp", ".rebuild-*.duckdb*", f".{workspace.snapshot.name}.*")
    busy = owners.server_lives(workspace) or any(job.is_running for job in jobs.list_jobs(workspace))
    young = time.time() - (LEFTOVER_SECONDS if busy else 0.0)
    found = [path for place in places for pattern in patterns for path in place.glob(pattern)]
    found = [path for path in dict.fromkeys(found) if path.is_file() and path.stat().st_mtime <= young]
    if not found:
        return
    detail = f"{len(found)} half-written files of killed processes, {size(sum(path.stat().st_size for path in found))}"
    if repair:
        for path in found:
            path.unlink(missing_ok=True)
        yield Finding("leftovers", "repaired", f"{detail}, removed.")
    else:
        yield Finding("leftovers", "note", f"{detail}. `tda doctor --repair` removes them.")


def _artifacts(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Verify every checksum; ``repair`` sets damaged artifacts aside, to be computed again by the next run."""
    store = ArtifactStore(workspace.artifacts)
    folders = sorted(path for path in workspace.artifacts.glob("??/*") if path.is_dir())
    damaged = 0
    for folder in folders:
        name, problems, proven = _problems(store, folder.name)
        if not problems:
            continue
        damaged += 1
        detail = "; ".join(problems)
        if not proven:
            yield Finding(name, "problem", f"{detail} Nothing was moved.")
        elif repair:
            store.set_aside_folder(folder)
            yield Finding(name, "repaired", f"{detail}. Set aside; run its study again to recompute it.")
        else:
            yield Finding(name, "problem", f"{detail}. `tda doctor --repair` sets it aside.")
    leftovers = store.clear_leftovers() if repair else 0
    use = rebuild.disk_use(workspace)
    total = sum(path.stat().st_size for path in workspace.artifacts.rglob("*") if path.is_file())
    notes = [f"{size(amount)} {name} (tda rm --unused)" for name, amount in use.removable]
    if leftovers:
        notes.append(f"{leftovers} leftovers of killed runs removed")
    detail = ", ".join([f"{len(folders)} checked, {size(total)}", *notes])
    yield Finding("artifacts", "note" if damaged else "ok", detail)


def _problems(store: ArtifactStore, key: str) -> tuple[str, list[str], bool]:
    """Return what to call an artifact, what is wrong with it, and whether that proves damage; nothing is moved."""
    try:
        artifact = store.peek(key)
        return artifact.describe(), artifact.problems(thorough=True), True
    except ArtifactError as error:
        return f"artifact {key[:12]}", [error.message], True
    except TDAError as error:  # it cannot be read at the moment
        return f"artifact {key[:12]}", [str(error)], False


def _quarantine(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Look at what was set aside: what is whole after all goes back, the rest waits for a person."""
    store = ArtifactStore(workspace.artifacts)
    folders = store.set_aside_folders()
    whole = []
    for folder in folders:
        if _is_whole(store, folder):  # asked anew for each: of two copies one takes the place
            whole.append(folder)
            if repair:
                place = store.path(_key_of(folder))
                place.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(place)
    if whole and repair:
        yield Finding("set aside", "repaired", f"{len(whole)} artifacts were whole after all and are back.")
    elif whole:
        yield Finding("set aside", "note", f"{len(whole)} artifacts are whole after all: --repair puts them back.")
    rest = [folder for folder in folders if folder not in whole]
    if rest:
        amount = size(sum(map(folder_bytes, rest)))
        yield Finding("set aside", "note", f"{len(rest)} damaged artifacts, {amount} (tda rm --unused removes them)")


def _key_of(folder: Path) -> str:
    return folder.name.partition("-")[0]


def _is_whole(store: ArtifactStore, folder: Path) -> bool:
    """Return whether an artifact in quarantine is not damaged, and its place free."""
    key = _key_of(folder)
    try:
        return not store.path(key).exists() and not store.peek(key, folder).problems(thorough=True)
    except TDAError:
        return False


def _catalogue(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Read every block of the catalogue; ``repair`` makes a damaged one again and keeps the old file."""
    if not workspace.catalogue.exists() and not any(workspace.artifacts.glob("??/*")):
        yield Finding("catalogue", "note", f"{workspace.catalogue} does not exist yet: `tda run` makes it.")
        return
    try:
        num_studies = _read_everything(workspace)
        yield Finding("catalogue", "ok", f"{workspace.catalogue}: {num_studies} studies")
    except (catalogue.LockedError, catalogue.ForeignError) as error:
        yield Finding("catalogue", "problem", str(error))
    except CatalogueError as error:
        if not repair:
            yield Finding("catalogue", "problem", f"{error.message} `tda doctor --repair` rebuilds it.")
        elif owners.server_lives(workspace):
            yield Finding("catalogue", "problem", f"{error.message} {STOP}")
        else:
            yield Finding("catalogue", "repaired", f"{error.message} {_make_again(workspace)}")


def _read_everything(workspace: Workspace) -> int:
    """Read every block of the catalogue and return the number of studies.

    Raises:
        CatalogueError: It cannot be read, or lacks a table.
    """
    with catalogue.reading(workspace) as connection:
        for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            connection.execute(f"SELECT bit_xor(hash(t)) FROM {quoted(name)} t").fetchall()  # a count reads no block
    return len(repository.studies(workspace))


def _make_again(workspace: Workspace) -> str:
    """Rebuild the catalogue, keep the old file, and say so."""
    kept = ""
    if workspace.catalogue.exists():
        kept = f" The old file is kept as {_aside(workspace.catalogue).name}."
    counts = rebuild.rebuild(workspace, KINDS)
    return f"Made again: {counts.studies} studies, {counts.steps} steps.{kept}"


def _snapshot(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Find a snapshot that readers would stumble over; a server writes it anew."""
    if not workspace.snapshot.exists() or owners.server_lives(workspace):
        return
    try:
        _read_everything(Workspace(workspace.snapshot))
    except CatalogueError as error:
        if repair:
            workspace.snapshot.unlink(missing_ok=True)
            yield Finding(
                "snapshot", "repaired", "The copy for readers was damaged; the next dashboard writes it anew."
            )
        else:
            yield Finding("snapshot", "problem", f"{error.message} `tda doctor --repair` removes this copy.")


def _missing(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Find results whose artifacts are gone; ``repair`` takes them out of the catalogue, so that a run makes them."""
    try:
        lost = _lost_artifacts(workspace)
    except CatalogueError:
        return  # said already
    if not lost:
        return
    detail = "; ".join(
        f"{len(labels)} artifacts of study {name} are missing ({_some(labels)}): `tda run {name}` computes them again"
        for name, labels in lost.items()
    )
    if not repair:
        yield Finding("missing", "problem", f"{detail}. `tda doctor --repair` takes them out of the catalogue.")
    elif owners.server_lives(workspace):
        yield Finding("missing", "problem", f"{detail}. {STOP}")
    else:
        yield Finding("missing", "repaired", f"{detail}. {_make_again(workspace)}")


def _lost_artifacts(workspace: Workspace) -> Mapping[str, Sequence[str]]:
    """Return the labels of steps that the catalogue holds and whose artifact is not there, by the study's name."""
    store = ArtifactStore(workspace.artifacts)
    found: dict[str, list[str]] = {}
    for study in repository.known_studies(workspace):
        for row in repository.ingested_steps(workspace, study.study_id):
            if not store.path(row.key).is_dir():
                found.setdefault(study.name, []).append(row.label)
    return found


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NUM_NAMED} more" if len(labels) > NUM_NAMED else ""
    return ", ".join(labels[:NUM_NAMED]) + more


def _inbox(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    lives = owners.server_lives(workspace)
    refused = refused_drops(workspace)
    if refused and not repair:
        reasons = _some(list(dict.fromkeys(drop.reason or drop.path.name for drop in refused)))
        detail = f"{len(refused)} drops were refused ({reasons}). `tda doctor --repair` offers them again."
        yield Finding("inbox", "note", detail)
    elif refused:
        yield _offer_again(workspace)
    waiting = len(pending_drops(workspace))
    if waiting and not lives:
        if repair:
            take_in(workspace, KINDS)
            yield Finding("inbox", "repaired", f"{waiting} results waited; taken in.")
        else:
            yield Finding("inbox", "note", f"{waiting} results wait; the next `tda run` or `tda serve` takes them in.")


def _offer_again(workspace: Workspace) -> Finding:
    """Have refused drops taken in; what is refused again is put out of the inbox's way, with its reason."""
    offered = [offer_again(drop) for drop in refused_drops(workspace)]
    take_in(workspace, KINDS, PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(path.exists() for path in offered) and time.monotonic() < deadline:
        time.sleep(0.1)  # a running dashboard takes them in
    again = refused_drops(workspace)
    for drop in again:
        _aside(drop.path)
    detail = f"{len(offered) - len(again)} of {len(offered)} refused drops were taken in"
    if again:
        reasons = _some(list(dict.fromkeys(drop.reason for drop in again)))
        detail += (
            f"; {len(again)} are kept as {workspace.inbox.name}/*.set-aside-* ({reasons}): run their studies again"
        )
    return Finding("inbox", "repaired", f"{detail}.")


def _jobs(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    unreadable = [path for path in sorted(workspace.jobs.glob("*.json")) if JobState.read(path) is None]
    if unreadable and repair:
        for path in unreadable:
            _aside(path)
        yield Finding("jobs", "repaired", f"{len(unreadable)} job files could not be read; moved to *.set-aside-*.")
    elif unreadable:
        detail = f"{len(unreadable)} job files cannot be read ({_some([path.name for path in unreadable])})"
        yield Finding("jobs", "problem", f"{detail}. `tda doctor --repair` moves them away.")
    found = jobs.list_jobs(workspace)
    ended = jobs.mark_stale(workspace) if repair else 0
    if ended:
        yield Finding("jobs", "repaired", f"{ended} runs were ended from outside; noted. Run their studies again.")
    stale = [job for job in found if job.status == "stale"]
    running = [job for job in found if job.is_running]
    text = f"{len(found)} known, {len(running)} running"
    more = f", {len(stale)} ended from outside (run again to go on)" if stale else ""
    yield Finding("jobs", "ok", text + more)
