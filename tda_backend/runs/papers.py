"""Every claim of the papers that a study tests, with the best evidence there is: computed here, shipped, or not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tda_backend.runs.api import open_study
from tda_backend.runs.claim_rules import NOT_RUN, PAPERS
from tda_backend.runs.run_command import embedded_studies
from tda_backend.runs.shipped import shipped_names, shipped_results
from tda_backend.runs.study import read_study_file, resolve
from tda_backend.store import repository
from tda_backend.store.workspace import Workspace

COMPUTED, SHIPPED = "computed here", "shipped result"
COLUMNS = [
    "study", "claim_id", "paper", "place", "statement", "verdict", "value", "low", "high", "bound", "numbers",
    "comparisons", "note", "check_name", "configuration_ids", "num_subsets", "origin", "task", "version", "created",
]  # fmt: skip


def paper_studies() -> dict[str, dict[str, Any]]:
    """Return the embedded studies that test claims, by name: the content of their files."""
    contents = {name: read_study_file(path) for name, path in embedded_studies().items()}
    return {name: content for name, content in contents.items() if content.get("claims")}


def paper_claims(db: str | Path | Workspace | None = None) -> pd.DataFrame:
    """Return one row per claim of the embedded studies, papers and places in order.

    Columns: ``COLUMNS``; ``origin`` is ``computed here`` (this catalogue), ``shipped result`` or ``not run`` (then
    ``verdict`` is ``not run`` and the numbers are missing).
    """
    workspace = Workspace.at(db)
    known = set(repository.studies(workspace)["name"]) if workspace.catalogue.exists() else set()
    shipped = set(shipped_names())
    rows: list[dict[str, Any]] = []
    for name, content in paper_studies().items():
        wanted = {claim["id"]: claim for claim in resolve(content)["claims"]}
        computed = _computed(workspace, name) if name in known else {}
        carried = _shipped(name) if name in shipped else {}
        for claim in content["claims"]:
            found = computed.get(claim["id"]) or carried.get(claim["id"]) or {}
            if found.get("verdict") == NOT_RUN:  # something it needs could not be computed here; the note says what
                found = carried.get(claim["id"]) or {**found, "origin": NOT_RUN}
            if found and found.pop("claim") != wanted[claim["id"]]:
                found = {}  # the claim has changed since: its old verdict says nothing about it
            rows.append({
                **dict.fromkeys(COLUMNS), "numbers": [], "configuration_ids": [], "origin": NOT_RUN,
                "verdict": NOT_RUN, "note": claim.get("note", ""), "check_name": claim["check"],
                "task": content["task"], **found,
                "study": name, "claim_id": claim["id"], "paper": claim["paper"], "place": claim["place"],
                "statement": claim["statement"],
            })  # fmt: skip
    frame = pd.DataFrame(rows, columns=COLUMNS)
    order = {paper: number for number, paper in enumerate(PAPERS)}
    return frame.sort_values(["paper", "study"], key=lambda c: c.map(order) if c.name == "paper" else c, kind="stable")


def _computed(workspace: Workspace, name: str) -> dict[str, dict[str, Any]]:
    study = open_study(name, workspace)
    rows, stated = study.verdicts().to_dict("records"), _stated(study.config)
    about = {"origin": COMPUTED, "version": None, "created": None}
    return {row["claim_id"]: {**row, **about, "claim": stated.get(row["claim_id"])} for row in rows}


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a resolved study by id, as they were when it ran."""
    return {claim["id"]: claim for claim in config.get("claims", [])}


def _shipped(name: str) -> dict[str, dict[str, Any]]:
    results = shipped_results(name)
    if "verdicts" not in results.tables:
        return {}
    about = {"origin": SHIPPED, "version": results.facts["version"], "created": results.facts["created"]}
    rows, stated = results.tables["verdicts"].to_dict("records"), _stated(results.facts["config"])
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        lists = {name: list(row[name]) for name in ("numbers", "configuration_ids")}
        found[row["claim_id"]] = {**row, **lists, **about, "claim": stated.get(row["claim_id"])}
    return found
