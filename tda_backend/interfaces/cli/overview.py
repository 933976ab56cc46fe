"""What ``tda show`` says of a study of the catalogue."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tda_backend.interfaces.cli.printing import duration, interval, number, print_line, print_table, size
from tda_backend.interfaces.cli.verdicts import print_verdicts
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.records.curves import LdsPoint
from tda_backend.interfaces.reading.records.selections import SelectionRow, TuningRow, chosen_without_truth
from tda_backend.interfaces.reading.records.studies import StudyRow, facts_of
from tda_backend.interfaces.reading.records.verdicts import Verdict
from tda_backend.interfaces.reading.remarks import remarks
from tda_backend.interfaces.reading.study import Study, list_studies
from tda_backend.studies.methods import METHODS
from tda_backend.studies.store.rebuild import disk_use


@dataclass(frozen=True)
class _StepCost:
    """What the steps of one name cost together."""

    step: str
    number: int
    seconds: float
    peak: float
    bytes: float


def study_json(study: Study) -> dict[str, Any]:
    """Return a study as the JSON object of ``tda show``."""
    overview = list_studies(study.workspace).set_index("study_id").loc[study.study_id].to_dict()
    frame = study.configurations()
    configurations = [
        {
            **content,
            "parameters": json.loads(row.parameters),
            "lds": [
                {"alpha": alpha, **point}
                for alpha in study.alphas
                for point in study.curve(row.configuration_id, alpha).to_dict("records")
            ],
        }
        for row, content in zip(records(frame, ConfigurationRow), frame.to_dict("records"), strict=True)
    ]
    chosen = chosen_without_truth(records(study.tuning(), TuningRow))
    return {
        **study.info,
        **overview,
        **({"chosen_by": chosen} if chosen else {}),
        "study_id": study.study_id,
        "bytes": _bytes(study),
        "configurations": configurations,
        "remarks": remarks(study),
        "verdicts": study.verdicts().to_dict("records"),
        "timings": study.timings().to_dict("records"),
    }


def show_study(study: Study, console: Console) -> None:
    """Print a study: its sizes, the best LDS of each configuration, verdicts, and what each step cost."""
    facts = facts_of(study.info)
    row = next(row for row in records(list_studies(study.workspace), StudyRow) if row.study_id == study.study_id)
    print_line(
        console,
        f"{study.name} ({study.study_id}): task {facts.task}, {facts.num_train} train, {facts.num_queries} "
        f"queries, {facts.num_subsets} subsets, {row.status}, "
        f"{row.steps_done}/{row.steps_total} steps, {size(_bytes(study))}",
    )
    _print_configurations(study, console)
    print_remarks(study, console)
    print_verdicts(console, records(study.verdicts(), Verdict))
    _print_costs(study, console)


def print_remarks(study: Study, console: Console) -> None:
    """Print what the numbers of a study leave out or cannot know."""
    for sentence in remarks(study):
        print_line(console, f"Note: {sentence}")


def _print_configurations(study: Study, console: Console) -> None:
    selected = {row.configuration_id: row for row in reversed(records(study.selections(), SelectionRow))}
    cells = []
    for row in records(study.configurations(), ConfigurationRow):
        curves = [records(study.curve(row.configuration_id, alpha), LdsPoint) for alpha in study.alphas]
        top, chosen = _best([point for curve in curves for point in curve]), selected.get(row.configuration_id)
        cells.append(
            [
                row.label,
                METHODS[row.method].curve if row.method in METHODS else "–",
                interval(top.mean, top.ci_low, top.ci_high) if top else "–",
                number(top.regularization, ".2g") if top else "–",
                number(chosen.lambda_selected, ".2g") if chosen else "–",
                interval(chosen.lds_selected, chosen.lds_selected_low, chosen.lds_selected_high) if chosen else "–",
                top.num_subsets if top else "–",
            ]
        )
    columns = ["configuration", "curve over λ", "best LDS [95 %]", "at λ", "λ*", "LDS at λ* [95 %]", "subsets"]
    print_table(console, columns, cells)
    labels = {row.configuration_id: row.label for row in records(study.configurations(), ConfigurationRow)}
    for identity, rules in chosen_without_truth(records(study.tuning(), TuningRow)).items():
        print_line(console, f"{labels.get(identity, identity)}: chosen without retraining, {'; '.join(rules)}")


def _best(points: Sequence[LdsPoint]) -> LdsPoint | None:
    """Return the point with the largest LDS among those that have one."""
    return max((point for point in points if not math.isnan(point.mean)), key=lambda point: point.mean, default=None)


def _print_costs(study: Study, console: Console) -> None:
    by_step = study.timings().groupby("step", sort=False)
    costs = by_step.agg(
        number=("seconds", "size"), seconds=("seconds", "sum"), peak=("peak_memory_mib", "max"), bytes=("bytes", "sum")
    )
    cells = [
        [cost.step, cost.number, duration(cost.seconds), f"{number(cost.peak, '.0f')} MiB", size(cost.bytes)]
        for cost in records(costs.reset_index(), _StepCost)
    ]
    print_table(console, ["step", "number", "time", "peak memory so far", "disk"], cells)


def _bytes(study: Study) -> int:
    return disk_use(study.workspace).studies.get(study.study_id, 0)
