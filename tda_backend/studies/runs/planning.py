"""From a resolved study to steps: what to compute, in which order, under which content keys.

The order puts something true on the page early: after the first 20 retrained subsets one configuration is evaluated
(its rows are replaced once all subsets are there), then the rest of the subsets, then every checkpoint in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from tda_backend.numerics.features.checkpoint_features import InnerProducts
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.study import Study
from tda_backend.studies.methods import METHODS
from tda_backend.studies.pipeline.facts import TaskFacts, at_pace
from tda_backend.studies.pipeline.plan import Plan, Steps
from tda_backend.studies.pipeline.planning import FinalStep, Planned, Planning
from tda_backend.studies.pipeline.sizes import LEAST_SHARE
from tda_backend.studies.runs.fitting import what_fits
from tda_backend.studies.runs.record import Round, study_record
from tda_backend.studies.steps.claims import Made, plan_claims
from tda_backend.studies.steps.compare_unrolled import plan_unrolled
from tda_backend.studies.steps.evaluate import plan_evaluation
from tda_backend.studies.steps.examples import plan_examples
from tda_backend.studies.steps.features import Features
from tda_backend.studies.steps.leave_one_out import plan_leave_one_out
from tda_backend.studies.steps.lookahead_summary import plan_lookahead
from tda_backend.studies.steps.removal import plan_removals
from tda_backend.studies.steps.rules import plan_rules
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.steps.train import (
    FIRST_CHUNK,
    NEXT_CHUNK,
    Retrain,
    plan_subsets,
    plan_training,
    training_seconds_of,
)
from tda_backend.studies.store.artifacts import content_key
from tda_backend.studies.study.checks import check_against_task, check_device, check_methods
from tda_backend.studies.study.limits import check_combinations, check_retrainings

PREVIEW_DIM = 512
STUDY, STUDY_VERSION = "study", 1
"""Name and version of the record's own artifact."""

Chunks = dict[float, list[Retrain]]
"""α → its retrained subsets."""


def configurations(study: Study) -> list[Configuration]:
    """Return the study's configurations, in the order of the method table: one for every combination but of λ.

    Raises:
        StudyError: There are more than the limit.
    """
    check_combinations(study)
    return [row for name, settings in study.methods.items() for row in METHODS[name].configurations(settings, study)]


def build_plan(asked: Study, facts: TaskFacts, device: str = "cpu", part: Round | None = None) -> Plan:
    """Return the plan of a resolved study.

    Args:
        asked: The study.
        facts: Of its task.
        device: Where it is computed.
        part: How much of its retraining is planned: the steps are those of a study of so many subsets, the id is that
            of the study that is asked for. ``None``: all of it.

    Raises:
        StudyError: The study asks for more than the task has.
        UsageError: Gradients cannot be passed in the study's precision on this device.
    """
    check_against_task(asked, facts)
    check_device(asked, facts, device)
    check_methods(asked, facts)
    facts, part = at_pace(facts, device), part or Round(asked.ground_truth.subsets)
    study = replace(asked, ground_truth=replace(asked.ground_truth, subsets=part.num_subsets))
    rows, steps = configurations(study), Steps(facts.fingerprint, device, facts.layout)
    examples = plan_examples(steps, study, facts)
    trained = plan_training(steps, study, facts, examples, _checkpoint_epochs(rows, study, facts))
    planning = Planning(study, facts, steps, examples, trained, training_seconds_of(study, facts))
    planning = replace(planning, asked=_asked(planning, rows))
    first = preview(rows)
    chunks = _plan_ground_truth(planning, first)
    planned = [_plan_configuration(planning, row, chunks) for row in sorted(rows, key=lambda row: order(row, first))]
    evaluations = {each.configuration.configuration_id: each.evaluation for each in planned}
    plan_rules(planning, rows, evaluations, chunks, trained[0])
    by_id = {each.configuration.configuration_id: each for each in planned}
    in_order = [by_id[row.configuration_id] for row in rows]
    for kind in KINDS.values():
        if issubclass(kind, FinalStep):
            kind.plan(planning, in_order)
    removals = plan_removals(planning, in_order)
    plan_leave_one_out(planning, in_order)
    unrolled, lookahead = plan_unrolled(planning), plan_lookahead(planning)
    plan_claims(planning, Made(in_order, chunks, removals, unrolled, lookahead))
    record = study_record(asked, facts, device, rows, steps.all(), part)
    check_retrainings(steps.all())
    keys = [step.key for step in steps.all()]
    key = content_key(step=STUDY, version=STUDY_VERSION, study_id=record["study_id"], steps=keys)
    fits = partial(what_fits, asked, lambda other: build_plan(other, facts, device).memory_gib(LEAST_SHARE))
    return Plan(record["study_id"], asked, facts, device, steps.all(), record, key, what_fits=fits)


def _asked(planning: Planning, rows: Sequence[Configuration]) -> dict[tuple[str, int], InnerProducts]:
    """Return by checkpoint, (key of the training run, epoch), which inner products of gradients are asked for.

    Models with rank-one factors keep those, whoever asks. For others all sources are planned once, apart.
    """
    found: dict[tuple[str, int], InnerProducts] = {}
    if not planning.facts.without_factors:
        return found
    trial = replace(planning, steps=planning.steps.apart())
    for row in rows:
        METHODS[row.method].sources(trial, row)
    for step in trial.steps.all():
        if isinstance(step, Features):
            place = step.train.key, step.epoch
            found[place] = max(step.taken, found.get(place, InnerProducts.NONE))
    return found


def _checkpoint_epochs(rows: Sequence[Configuration], study: Study, facts: TaskFacts) -> list[int]:
    """Return every epoch at which training runs keep a checkpoint: the study's, and those that trajectories need."""
    epochs = set(study.training.epochs)
    for row in rows:
        epochs.update(METHODS[row.method].checkpoint_epochs(row, facts.task, study.data.train))
    return sorted(epochs)


def _plan_ground_truth(planning: Planning, first: Configuration | None) -> Chunks:
    """Add the retrained subsets of every α; after the first of them one configuration is shown as a preview."""
    truth = planning.study.ground_truth
    chunks: Chunks = {alpha: [] for alpha in truth.alphas}
    total = truth.subsets
    if not total:
        return chunks
    first_alpha = next(iter(chunks))
    chunks[first_alpha].append(plan_subsets(planning, first_alpha, 0, min(FIRST_CHUNK, total)))
    if total > FIRST_CHUNK and first is not None:
        sources = METHODS[first.method].sources(planning, first)
        plan_evaluation(planning, first, sources, {first_alpha: chunks[first_alpha]}, is_preview=True)
    for alpha, steps in chunks.items():
        if alpha != first_alpha:
            steps.append(plan_subsets(planning, alpha, 0, min(FIRST_CHUNK, total)))
        for start in range(FIRST_CHUNK, total, NEXT_CHUNK):
            steps.append(plan_subsets(planning, alpha, start, min(start + NEXT_CHUNK, total)))
    return chunks


def _plan_configuration(
    planning: Planning, configuration: Configuration, chunks: Mapping[float, Sequence[Retrain]]
) -> Planned:
    sources = METHODS[configuration.method].sources(planning, configuration)
    return Planned(configuration, sources, plan_evaluation(planning, configuration, sources, chunks))


def order(row: Configuration, first: Configuration | None) -> tuple:
    """Return the sort key of computing: checkpoint by checkpoint (its Gram serves all of it), that of ``first`` first.

    The largest λ-sweep first would delay the others: small k first, unprojected last; score matrices after all.
    """
    earlier, dim = first is not None and row.training_epoch == first.training_epoch, row.projection_dim
    return (METHODS[row.method].RANK, not earlier, row.training_epoch, dim is None, dim or 0, row.method)


def preview(rows: Sequence[Configuration]) -> Configuration | None:
    """Return the configuration that is evaluated first: a cheap projection at a middle-to-late checkpoint."""
    able = [row for row in rows if METHODS[row.method].is_preview(row)]
    if not able:
        return None
    epochs = sorted({row.training_epoch for row in able})
    middle = epochs[min(len(epochs) - 1, (len(epochs) + 1) // 2)]
    ranks = {name: number for number, name in enumerate(METHODS)}
    return min(
        (row for row in able if row.training_epoch == middle),
        key=lambda row: (ranks[row.method], abs((row.projection_dim or 10**6) - PREVIEW_DIM)),
    )
