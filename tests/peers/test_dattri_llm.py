"""Unrolled influence and online selection against stored values of dattri-llm 0.1.0 on the same training runs.

Its scores are one row for each time that an example was in a batch, ``[occurrences, m]``. AdamW-influence predicts
minus the change of the query's loss on removal: **its positive is harmful**, the negative of ours. DVEmb has our sign.

Where it is right: bias correction, ε outside the root, decoupled decay and its learning rate, division by |B|, an empty
second moment (S = 0), partial batches, several epochs. With its float32 made float64, its formula and ours with
``curvature="fisher"`` differ by 3e-16; in its own float32 by 1e-7 of the largest score.

Where it is not the derivative of the training that it watched (differences relative to the largest true effect, which
autograd through the training gives and our exact mode meets to 1e-15; ρ: mean Spearman over queries with it):

- Its curvature is the batch's empirical Fisher, whatever it is called: .26 off, ρ .86 (decay .5: .08, ρ .987). For that
  it needs no second derivatives. Gauss–Newton is .16 off, ρ .94.
- Clipping: the gradient recovered from the moments is the clipped one, but the examples' gradients are not, and the
  factor's own derivative is missing: .77 off, ρ .76, where the Fisher alone costs .28, ρ .87. It clips at 1 by default.
- Adam with L2 decay counts as decoupled: .78 off, ρ .88, where the Fisher alone costs .23, ρ .93.
- DVEmb knows no weight decay.
- Everything is float32, except S.

Its online selection, plain gradient alignment, is ours to rounding, but see the test about float32.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.lookahead.runs import SelectionData, SelectionTask, select_while_training
from tda_backend.numerics.trajectory.lookahead.scorer import Strategy
from tda_backend.numerics.trajectory.unrolled.clipping import clipped
from tda_backend.numerics.trajectory.unrolled.influence import Variant, unrolled_influence
from tda_backend.numerics.trajectory.unrolled.optimizers import SGD, Adam, Optimizer, optimizer_of
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tests.peers.cases import load_golden
from tests.peers.trajectories import (
    NUM_QUERIES,
    NUM_TRAIN,
    RUNS,
    SHARE,
    TRAINING_SEED,
    Run,
    load_run,
    true_effects,
)

pytestmark = [pytest.mark.shipped_data]

ADAM = [name for name in RUNS if name != "sgd"]
FAITHFUL = ["adamw", "adamw-decay"]
"""Runs in which nothing happens that dattri-llm leaves out, but for the curvature."""
FLOAT32, FLOAT64 = 5e-7, 1e-13


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Values of dattri-llm."""
    return load_golden("dattri-llm")


def theirs(golden: dict[str, np.ndarray], name: str, key: str = "double") -> Tensor:
    """Return stored AdamW-influence with our sign."""
    return -torch.from_numpy(golden[f"{name}/{key}"]).double()


@functools.lru_cache
def stored(name: str) -> Run:
    """Return a stored run."""
    return load_run(name)


@functools.lru_cache
def recorded(name: str) -> Trajectory:
    """Return the run as our recording makes it."""
    task = stored(name).task
    return record(TrainingRun(task, task.datasets(), range(NUM_TRAIN), TRAINING_SEED), dtype=torch.float64)


@functools.lru_cache
def truth(name: str) -> Tensor:
    """Return the true first-order effects, ``[occurrences, m]``."""
    return true_effects(stored(name))


@functools.lru_cache
def ours(name: str, curvature: str, assume: str = "as trained") -> Tensor:
    """Return our influence of every occurrence, ``[occurrences, m]``."""
    found = unrolled_influence(
        recorded(name),
        Queries(range(NUM_QUERIES), quantity="loss"),
        Variant(assume=assume, curvature=curvature),
        trace_rows=range(NUM_TRAIN),
    )
    assert found.traces is not None
    return torch.cat([trace.T[rows] for trace, rows in zip(found.traces, recorded(name).batches, strict=True)])


def off(values: Tensor, reference: Tensor) -> float:
    """Return the largest difference relative to the largest reference."""
    return float((values - reference).abs().max() / reference.abs().max())


def agreement(values: Tensor, reference: Tensor) -> float:
    """Return the mean over queries of Spearman's ρ over occurrences."""
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(values.T, reference.T, strict=True)]))


def swept(name: str, optimizer: Optimizer, *, effective: bool = False) -> Tensor:
    """Return influence with the batch Fisher, unrolled by hand through another optimizer's linearisation.

    ``effective``: take derivatives at the gradient that the moments saw, clipped and with L2 decay.
    """
    trajectory = recorded(name)
    objective, own = trajectory.objective, trajectory.optimizer
    queries = trajectory.objective_of("test").example_gradients(trajectory.final_theta, torch.arange(NUM_QUERIES))
    u = queries.new_zeros(NUM_QUERIES, 1 + optimizer.num_slots, queries.shape[1])
    u[:, 0] = queries
    found = []
    for step in trajectory.backward():
        gradients = objective.example_gradients(step.theta, step.rows)
        mean = gradients.mean(0)
        if effective:
            mean = mean if own.clip_norm is None else clipped(mean, own.clip_norm)
            mean = mean if own.decoupled else mean + own.weight_decay * step.theta
        state = step.state[: optimizer.num_slots]
        cov, u = optimizer.point(step.theta, state, mean, step.rate, step.step).pull(u)
        found.append(-(gradients @ cov.T) / len(gradients))
        u[:, 0] += (cov @ gradients.T) @ gradients / len(gradients)
    return torch.cat(found[::-1])


@pytest.mark.parametrize("name", RUNS)
def test_the_run_is_the_one_that_dattri_llm_watched(name):
    """Batches, rates and both ends; some parameters never get a gradient."""
    run, trajectory = stored(name), recorded(name)
    assert all(torch.equal(a, b) for a, b in zip(run.rows, trajectory.batches, strict=True))
    assert run.rates == pytest.approx(trajectory.rates, rel=1e-15)
    assert torch.equal(run.start, next(trajectory.forward()).theta)
    torch.testing.assert_close(trajectory.final_theta, run.end, rtol=0, atol=1e-12)
    if name in ADAM and not trajectory.settings.weight_decay:
        assert int((trajectory.final_state[1] == 0).sum()) == 5 * 8  # pixels without ink


@pytest.mark.parametrize("name", FAITHFUL)
def test_adamw_influence_is_ours_with_the_fisher(name, golden):
    """Float32 as it computes, and its formula in float64."""
    assert off(theirs(golden, name, "adamw-influence"), ours(name, "fisher")) <= FLOAT32
    assert off(theirs(golden, name), ours(name, "fisher")) <= FLOAT64


@pytest.mark.parametrize("name", FAITHFUL)
def test_influence_of_an_example_is_the_sum_over_its_occurrences(name, golden):
    """What dattri-llm calls trajectory-agnostic."""
    rows = torch.cat(stored(name).rows)
    summed = torch.zeros(NUM_TRAIN, NUM_QUERIES, dtype=torch.float64).index_add(0, rows, theirs(golden, name))
    found = unrolled_influence(
        recorded(name), Queries(range(NUM_QUERIES), quantity="loss"), Variant(curvature="fisher")
    ).scores
    assert off(summed.T, found) <= FLOAT64
    goodness = unrolled_influence(recorded(name), Queries(range(NUM_QUERIES)), Variant(curvature="fisher")).scores
    torch.testing.assert_close(goodness, found, rtol=1e-10, atol=1e-16)  # the task's goodness is minus its loss


@pytest.mark.parametrize("name", RUNS)
def test_exact_unrolling_is_the_derivative_of_the_training(name):
    """By autograd through all steps, which knows nothing of our linearisation."""
    assert off(ours(name, "hessian"), truth(name)) <= FLOAT64


@pytest.mark.parametrize(
    ("name", "difference", "rank"),
    [
        ("adamw", 0.26, 0.863),
        ("adamw-decay", 0.079, 0.987),
        ("adamw-clipped", 0.77, 0.758),
        ("adam-coupled", 0.78, 0.878),
    ],
)
def test_how_far_adamw_influence_is_from_the_derivative(name, difference, rank, golden):
    """The figures of the module's docstring. Its raw score and the truth have opposite signs."""
    peer = theirs(golden, name)
    assert off(peer, truth(name)) == pytest.approx(difference, rel=0.05)
    assert agreement(peer, truth(name)) == pytest.approx(rank, abs=0.005)
    assert agreement(-peer, truth(name)) < -0.7


@pytest.mark.parametrize(
    ("name", "fisher", "rank"),
    [
        ("adamw", 0.26, 0.863),
        ("adamw-decay", 0.079, 0.987),
        ("adamw-clipped", 0.278, 0.872),
        ("adam-coupled", 0.226, 0.933),
    ],
)
def test_what_the_fisher_alone_costs(name, fisher, rank):
    """Ours with the right clipping and decay; Gauss–Newton is nearer to the derivative in every run."""
    assert off(ours(name, "fisher"), truth(name)) == pytest.approx(fisher, rel=0.05)
    assert agreement(ours(name, "fisher"), truth(name)) == pytest.approx(rank, abs=0.005)
    assert off(ours(name, "gauss-newton"), truth(name)) < 0.9 * off(ours(name, "fisher"), truth(name))


def test_it_does_not_differentiate_clipping(golden):
    """It is ours without clipping, at the clipped gradient, with examples' gradients unclipped."""
    name = "adamw-clipped"
    settings, trajectory = RUNS[name], recorded(name)
    norms = [trajectory.objective.mean_gradient(s.theta, s.rows).norm() for s in trajectory.forward()]
    assert sum(norm > settings.clip_norm for norm in norms) >= len(norms) / 2
    without = Adam(0.0, decoupled=True, betas=settings.betas, eps=settings.eps)
    assert off(theirs(golden, name), swept(name, without, effective=True)) <= FLOAT64
    assert off(theirs(golden, name), ours(name, "fisher")) > 0.3


def test_it_takes_coupled_decay_for_decoupled(golden):
    """A run of Adam with L2 decay: it is ours for AdamW at the gradient with decay in it."""
    name = "adam-coupled"
    settings = RUNS[name]
    decoupled = Adam(settings.weight_decay, decoupled=True, betas=settings.betas, eps=settings.eps)
    assert off(theirs(golden, name), swept(name, decoupled, effective=True)) <= FLOAT64
    assert off(theirs(golden, name), ours(name, "fisher")) > 0.5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_dvemb_is_ours_assuming_sgd(name, golden):
    """Of a run of SGD, and of one of AdamW without decay: the mismatched baseline. Positive helps there, too."""
    dvemb = torch.from_numpy(golden[f"{name}/dvemb"]).double()
    assert off(dvemb, ours(name, "fisher", "sgd")) <= FLOAT32
    assert agreement(dvemb, truth(name)) > 0


def test_dvemb_knows_no_decay(golden):
    """It is ours without; ours shrinks what comes from earlier steps."""
    name = "adamw-decay"
    dvemb = torch.from_numpy(golden[f"{name}/dvemb"]).double()
    assert off(dvemb, swept(name, SGD())) <= FLOAT32
    decoupled = swept(name, SGD(RUNS[name].weight_decay, decoupled=True))
    assert off(ours(name, "fisher", "sgd"), decoupled) <= FLOAT64
    assert off(dvemb, decoupled) > 1e-3


@pytest.mark.parametrize("name", FAITHFUL)
def test_matching_the_optimizer_ranks_better_than_assuming_sgd(name, golden):
    """The same order for dattri-llm's two methods and for ours."""
    dvemb = torch.from_numpy(golden[f"{name}/dvemb"]).double()
    assert agreement(theirs(golden, name), truth(name)) > 1.1 * agreement(dvemb, truth(name))
    assert agreement(ours(name, "hessian"), truth(name)) > 1.1 * agreement(ours(name, "hessian", "sgd"), truth(name))


def test_online_selection_by_alignment_is_dattri_llms(golden):
    """Scores, what is dropped, and θ after training on the rest: its ``DataSelectionCallback`` with ``renormalize``."""
    task = stored("adamw").task
    data = task.datasets()
    parts = SelectionData(data["train"], data["test"], data["test"], data["test"])
    strategy = Strategy("alignment", fraction=1 - SHARE)
    run = select_while_training(SelectionTask(task, parts, dtype=torch.float64), strategy, TRAINING_SEED)
    scores = golden["selection/scores"]
    assert np.abs(run.scores - scores).max() <= 1e-10 * np.abs(scores).max()
    assert np.array_equal(~run.kept, golden["selection/dropped"])
    assert np.abs(run.theta.numpy() - golden["selection/end"]).max() <= 1e-10


def test_selection_in_float32_trains_on_what_was_kept(golden):
    """dattri-llm subtracts what it drops from the batch's gradient.

    Where only dropped examples have ink, a rounding error of 1e-9 is left in place of 0, which Adam divides by about
    itself: θ ends .004 from float64 after moving by .12, and choices change. Ours never adds what it drops: 1e-7.
    """
    task = stored("adamw").task
    data = {split: {"x": part["x"].float(), "y": part["y"]} for split, part in task.datasets().items()}
    parts = SelectionData(data["train"], data["test"], data["test"], data["test"])
    run = select_while_training(SelectionTask(task, parts), Strategy("alignment", fraction=1 - SHARE), TRAINING_SEED)
    exact = golden["selection/end"]
    assert np.abs(run.theta.numpy() - exact).max() < 1e-6
    assert np.abs(golden["selection-float32/end"] - exact).max() > 1e-3


def test_one_step_ahead_of_sgd_is_alignment_after_the_step(golden):
    """K = 1 with SGD: η·∇L_val(θ_t)·g_z with the gradient after the step, where dattri-llm takes that before it."""
    task = stored("sgd").task
    trajectory, optimizer = recorded("sgd"), optimizer_of(RUNS["sgd"])
    data = task.datasets()
    parts = SelectionData(data["train"], data["test"], data["test"], data["test"])
    run = select_while_training(
        SelectionTask(task, parts, dtype=torch.float64), Strategy("look-ahead", 1, 1 - SHARE), TRAINING_SEED
    )
    step = next(trajectory.forward())
    gradients = trajectory.objective.example_gradients(step.theta, step.rows) / len(step.rows)
    after, _ = optimizer.update(step.theta, step.state, gradients.sum(0), step.rate, 1)
    held_out = trajectory.objective_of("test").mean_gradient(after, torch.arange(NUM_QUERIES))
    torch.testing.assert_close(torch.from_numpy(run.scores[run.steps == 1]), step.rate * gradients @ held_out)
