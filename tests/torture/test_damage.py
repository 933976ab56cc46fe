"""Every kind of file of a workspace, damaged in every way: never wrong data, and whole again by doctor and run."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_backend.errors import TDAError
from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.studies.store import owners
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.inbox import FinishedStep, write_drop
from tda_backend.studies.store.workspace import Workspace
from tests.torture.compare import State
from tests.torture.conftest import FULL, Place, attempt, randomness, times
from tests.torture.jobs import job


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def half_zeroed(data: bytes, chance: random.Random) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def hole(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


WAYS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "truncated": truncated,
    "half zeroed": half_zeroed,
    "a hole of zeros": hole,
    "a bit flipped": flipped,
    "all zeros": lambda data, chance: bytes(len(data)),
    "empty": lambda data, chance: b"",
    "replaced by junk": lambda data, chance: chance.randbytes(len(data)),
    "gone": lambda data, chance: None,
}


def stored(pattern: str) -> Callable[[Workspace, random.Random], Path]:
    return lambda place, chance: chance.choice(sorted(place.artifacts.glob(f"??/*/{pattern}")))


def drop(place: Workspace, chance: random.Random) -> Path:
    """Write a drop that says again what the catalogue holds: taking it in changes nothing."""
    record = next(key for key in ArtifactStore(place.artifacts).all_keys())
    return write_drop(place, FinishedStep("s", record, "again"))


def snapshot(place: Workspace, chance: random.Random) -> Path:
    shutil.copyfile(place.catalogue, place.snapshot)
    return place.snapshot


def server_file(place: Workspace, chance: random.Random) -> Path:
    owners.announce(place)
    return place.server_file


KINDS: dict[str, Callable[[Workspace, random.Random], Path]] = {
    "an array": stored("*.npy"),
    "a table": stored("*.parquet"),
    "a checkpoint": stored("*.safetensors"),
    "a study's record": stored("study.json"),
    "a manifest": stored("manifest.json"),
    "the catalogue": lambda place, chance: place.catalogue,
    "the snapshot": snapshot,
    "a drop": drop,
    "a job file": lambda place, chance: chance.choice(sorted(place.jobs.glob("*.json"))),
    "the server's file": server_file,
}
SAMPLE = [("an array", "half zeroed"), ("a manifest", "a bit flipped"), ("the catalogue", "half zeroed")]
CASES = [(kind, way) for kind in KINDS for way in WAYS] if FULL else SAMPLE


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_damage(place: Place, reference: State, undisturbed: Workspace, kind: str, way: str):
    chance = randomness(f"{kind} {way}")
    for _ in range(times(1, 1)):
        with attempt(f"{kind} is damaged", "numbers or a named error; all tables and checksums"):
            workspace = place.copy(undisturbed)
            path = KINDS[kind](workspace, chance)
            expected = numbers(open_study("victim", undisturbed))
            _damage(path, way, chance)
            assert read(workspace) in (expected, "refused")
            ended = place.server.do(job("doctor", workspace, ["--repair"]))
            assert ended.wait() == 0, ended.said()
            place.finish(workspace, reference)


def _damage(path: Path, way: str, chance: random.Random) -> None:
    data = WAYS[way](path.read_bytes(), chance)
    if data is None:
        path.unlink()
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, data)
        os.close(descriptor)


def numbers(study: Study) -> list[object]:
    """Return scores, curves and pictures of everything that a page shows, as far as floats can be compared."""
    found: list[object] = [study.scores("iffim", 1e-2, 8).tobytes(), study.scores("tracin").tobytes()]
    found += [study.lds("iffim", [1e-2]).to_csv(), study.lds_table().to_csv(), study.selections().to_csv()]
    return [*found, study.examples("train").to_csv(), study.subset_outputs().tobytes()]


def read(workspace: Workspace) -> list[object] | str:
    """Return the numbers of the study, or that they were refused in words of the family."""
    try:
        return numbers(open_study("victim", workspace))
    except TDAError:
        return "refused"
