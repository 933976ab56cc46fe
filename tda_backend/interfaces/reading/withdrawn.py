"""Verdicts that are withdrawn: their figures compare something else than the paper's statement is about.

``data/results/withdrawn.toml`` names them with the reason. It enters no content key, so that the studies stay what they
are; what reads verdicts asks here, whether they were computed here or shipped, before or after the withdrawal.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from tda_backend.errors import DataError
from tda_backend.models.tasks.data import data_folder
from tda_backend.numerics.evaluation.claims import Comparison
from tda_backend.studies.contract.claim import NOT_TESTED
from tda_backend.studies.study.quick import QUICK_SUFFIX

_NAME = "withdrawn.toml"


@dataclass(frozen=True)
class Withdrawn:
    """What is withdrawn of the shipped studies; claims are called ``STUDY/ID``.

    Attributes:
        reasons: Claim → why it is not tested as stated.
        dropped: Claim → why its check says nothing, so that it is listed nowhere.
    """

    reasons: Mapping[str, str]
    dropped: Mapping[str, str]

    def reason(self, study: str, claim_id: str) -> str | None:
        """Return why a claim is not tested as stated; ``None``: it is."""
        return self.reasons.get(_key(study, claim_id))

    def is_dropped(self, study: str, claim_id: str) -> bool:
        """Return whether a claim is listed nowhere."""
        return _key(study, claim_id) in self.dropped

    def applied(self, study: str, verdicts: pd.DataFrame) -> pd.DataFrame:
        """Return a study's verdicts without those dropped; one withdrawn says so, and its note says why.

        Args:
            study: Its name; the quick version of a study has the claims of the whole one.
            verdicts: Rows of the table ``verdicts``. What is compared in words is written anew, as this version does.
        """
        kept = [not self.is_dropped(study, name) for name in verdicts["claim_id"]]
        frame = verdicts.loc[kept].reset_index(drop=True)
        reasons = [self.reason(study, name) for name in frame["claim_id"]]
        pairs = list(zip(reasons, frame["verdict"], frame["note"], strict=True))
        frame["verdict"] = [said if reason is None else NOT_TESTED for reason, said, _ in pairs]
        frame["note"] = [note if reason is None else reason for reason, _, note in pairs]
        frame["numbers"] = [
            [each.sentence for each in read_comparisons(text)] if text else list(numbers)
            for text, numbers in zip(frame["comparisons"], frame["numbers"], strict=True)
        ]
        return frame


def read_comparisons(text: str | None) -> list[Comparison]:
    """Return the comparisons behind a verdict, which are stored as JSON."""
    found = []
    for entry in json.loads(text or "[]"):
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in entry.items()}
        found.append(Comparison(**values))
    return found


def withdrawn() -> Withdrawn:
    """Return what is withdrawn; nothing where the data folder has no such file.

    Raises:
        DataError: The file is damaged.
    """
    path = data_folder() / "results" / _NAME
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return Withdrawn({}, {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", "Restore the data/ folder.") from error


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Withdrawn:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return Withdrawn(_claims(content, "withdrawn"), _claims(content, "dropped"))


def _claims(content: Mapping[str, Any], section: str) -> dict[str, str]:
    entries = content.get(section, [])
    return {str(claim): str(entry["reason"]) for entry in entries for claim in entry["claims"]}


def _key(study: str, claim_id: str) -> str:
    return f"{study.removesuffix(QUICK_SUFFIX)}/{claim_id}"
