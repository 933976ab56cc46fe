"""What a study asks of task and model in vain is refused before anything is computed; quick versions never do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tda_backend.errors import StudyError
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.facts import TaskFacts, task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.study.file import resolve
from tda_backend.studies.study.quick import quick


@pytest.fixture(scope="module")
def facts() -> TaskFacts:
    return task_facts(load_task("mnist-lr"), "mnist-lr")


def study(method: str, **settings) -> dict:
    content = {"name": "s", "task": "mnist-lr", "training": {"epochs": [1, 8]}, "methods": {method: settings}}
    return {**content, "data": {"train": 200, "validation": 20, "queries": 20}}


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("if-explicit", {"projection_dim": [64]}, "projects the Hessian"),
        ("if-lissa", {"curvature": ["hessian", "ggn"], "projection_dim": [64, "none"]}, "projects the Hessian"),
        ("if-arnoldi", {"num_iterations": [20, 100]}, "num_eigenvalues = 50 of num_iterations = 20 to 100"),
        ("if-arnoldi", {"num_iterations": 10**6}, "has 7850 parameters"),
        ("empirical-influence", {"subset_fraction": [0.5, 0.999]}, "200 of 200"),
        ("empirical-influence", {"subset_fraction": 0.001}, "0 of 200"),
        ("source", {}, "Method source to epoch 1: SOURCE got 6 checkpoints"),
        ("source", {"epochs": 8, "num_checkpoints": 4}, "4 checkpoints for 3 segments"),
    ],
)
def test_what_cannot_be_computed_is_refused_first(facts: TaskFacts, method: str, settings: dict, expected: str):
    with pytest.raises(StudyError, match=expected) as refused:
        build_plan(resolve(study(method, **settings)), facts)
    assert refused.value.hint


def test_models_of_half_subsets_need_training(facts: TaskFacts):
    given = replace(facts, trains=False)
    content = {**study("trak", half_subset_models=[0, 2]), "ground_truth": {"subsets": 0}}
    build_plan(resolve(content), facts)
    with pytest.raises(StudyError, match="half_subset_models needs a training run"):
        build_plan(resolve(content), given)


@pytest.mark.parametrize("num_parameters", [7850, 109_386])
@pytest.mark.parametrize("method", ["if-explicit", "if-cg", "if-lissa"])
@pytest.mark.parametrize("curvature", ["hessian", "ggn", "empirical-fisher"])
def test_the_quick_version_can_be_computed(facts: TaskFacts, num_parameters: int, method: str, curvature: str):
    larger = replace(facts, num_parameters=num_parameters)
    content = study(method, curvature=curvature, projection_dim=["none" if curvature == "hessian" else 512])
    plan = build_plan(resolve(quick(content, num_parameters)), larger)
    assert any(step.NAME in ("spectrum", "curvature") for step in plan.steps)


def test_the_quick_version_keeps_no_more_eigenvalues_than_iterations(facts: TaskFacts):
    content = study("if-arnoldi", num_iterations=200, num_eigenvalues=[50, 100])
    build_plan(resolve(quick(content, facts.num_parameters)), facts)


@pytest.mark.parametrize(
    ("task", "method", "expected"),
    [
        ("mnist-lr-optimum", "source", "Method source follows the training run; the task 'mnist-lr-optimum'"),
        ("diabetes-optimum", "hydra-fast", "trained to its optimum"),
        ("rotated-mnist", "hydra-fast", "trained in 2 stages"),
        ("mnist-mlp-adamw", "source", "Method source assumes SGD; the task 'mnist-mlp-adamw' is trained by AdamW"),
        ("mnist-mlp-adamw", "hydra-fast", "assumes SGD"),
    ],
)
def test_methods_that_follow_a_run_need_one(task: str, method: str, expected: str):
    content = {**study(method), "task": task, "training": {"epochs": [1]}}
    with pytest.raises(StudyError, match=expected) as refused:
        build_plan(resolve(content), task_facts(load_task(task), task))
    assert "Leave" in refused.value.hint


def test_source_keeps_the_checkpoints_of_each_stage():
    content = {**study("source", epochs=20), "task": "rotated-mnist", "training": {"epochs": [20]}}
    plan = build_plan(resolve(content), task_facts(load_task("rotated-mnist"), "rotated-mnist"))
    trained = next(step for step in plan.steps if step.NAME == "train")
    assert trained.settings()["epochs"] == [5, 10, 15, 20]
