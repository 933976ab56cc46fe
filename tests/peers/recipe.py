"""How the golden values are made: ``python -m tests.peers.recipe [--keep-checkpoints]`` where the peers are installed.

Install them with ``pip install -e '.[peers]'`` (exact versions). Everything runs in float64 where the tool allows it,
on one thread. Scores are stored **as each tool gives them**, its orientation and sign included; what a test compares is
converted there. Files: the two cases (checkpoints, see :mod:`tests.peers.cases`), ``kronfluence``, ``dattri``,
``traker`` and ``dattri-llm`` (training runs of :mod:`tests.peers.trajectories`); none holds pickles.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import warnings
from collections.abc import Callable

import numpy as np
import torch

from tda_backend.seeds import hashed_seed
from tests.peers import with_dattri, with_dattri_llm, with_traker
from tests.peers.cases import DAMPINGS, EPOCHS, GOLDENS, VERSIONS, Case, load_case, pooled_case, train_case
from tests.peers.trajectories import RUNS, SHARE
from tests.peers.with_kronfluence import kronfluence_scores

PROJECTION_DIM, LOGRA_RANK = 64, 8
REGULARIZATIONS = {"0": 0.0, "1e-2": 1e-2, "1": 1.0}
"""λ of TRAK in our units (mean Gram, projection with 1/√k); the mean Gram's eigenvalues run from .8 to 200."""
LOGRA_DAMPINGS: dict[str, float | None] = {"1e-1": 0.1, "1e-3": 1e-3}
CG_REGULARIZATIONS, CG_ITERATIONS = {"1": 1.0, "1e-2": 1e-2}, 10
"""At 1e-2, the published default, the Hessian of the perceptron is negative along search directions."""
EXPLICIT_REGULARIZATION = 1e-2
EKFAC_DAMPING = 1e-3
PART_BATCH = 50
"""Batch size of the demonstrations that the sum of per-batch inverses is not an inverse."""


def sampled_labels(case: Case) -> torch.Tensor:
    """Return one label per train example, drawn from the model's own predictions, ``[n]``."""
    generator = torch.Generator().manual_seed(hashed_seed("peer goldens", "sampled labels"))
    with torch.no_grad():
        probabilities = case.model()(case.rows("train")[0]).softmax(1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def kronfluence_goldens() -> dict[str, np.ndarray]:
    """Return kronfluence's scores; ``labels`` are the sampled labels of the true Fisher."""
    case = load_case("mnist-mlp")
    train, queries, labels = case.rows("train"), case.rows("test"), sampled_labels(case)
    found: dict[str, np.ndarray] = {"labels": labels.numpy().astype(np.uint8)}
    some = {name: DAMPINGS[name] for name in ("1e-3",)}
    for name, drawn, strategy, dampings in (
        ("ekfac-true", labels, "ekfac", DAMPINGS),
        ("ekfac-empirical", None, "ekfac", DAMPINGS),
        ("kfac-true", labels, "kfac", some),
        ("diagonal-true", labels, "diagonal", some),
    ):
        scores = kronfluence_scores(case.model(), train, queries, dampings, sampled_labels=drawn, strategy=strategy)
        found |= {f"{name}/{key}": value for key, value in scores.items()}
    # What float32, kronfluence's default, makes of the smallest damping.
    single = torch.float32
    scores = kronfluence_scores(
        case.model(dtype=single),
        case.rows("train", single),
        case.rows("test", single),
        {"1e-8": 1e-8},
        sampled_labels=labels,
        dtype=None,
        self_scores=False,
    )
    return found | {"ekfac-true-float32/pairwise/1e-8": scores["pairwise/1e-8"]}


def traker_goldens() -> dict[str, np.ndarray]:
    """Return traker's scores, projected gradients and the factor by which it divides the inverse."""
    case = load_case("mnist-mlp")
    single = torch.float32
    model = case.model(dtype=single)
    num_parameters = sum(p.numel() for p in model.parameters())
    num = len(case.data["train"]["y"])
    theirs = {name: num * value * PROJECTION_DIM / num_parameters for name, value in REGULARIZATIONS.items()}
    return with_traker.traker_scores(
        model, case.rows("train", single), case.rows("test", single), PROJECTION_DIM, theirs
    )


def dattri_goldens() -> dict[str, np.ndarray]:
    """Return dattri's scores: TRAK, TracIn, LoGra, CG, explicit, and what it gets wrong."""
    case, linear, small = load_case("mnist-mlp"), load_case("mnist-lr"), pooled_case()
    train, queries, num = case.rows("train"), case.rows("test"), len(case.data["train"]["y"])
    state, model = case.states[max(case.states)], case.model()
    num_parameters = sum(p.numel() for p in model.parameters())
    found: dict[str, np.ndarray] = {}
    for name, value in REGULARIZATIONS.items():
        their = num * value / num_parameters
        found[f"trak/{name}"] = with_dattri.trak(model, [state], train, queries, PROJECTION_DIM, their)
    probe = with_dattri.trak_features(torch.eye(3, num_parameters, dtype=torch.float64), PROJECTION_DIM)
    found["trak/projection-rows"] = probe.numpy()  # to notice a torch that draws other numbers
    found["tracin/mlp"] = with_dattri.tracin(model, [state], [1.0], train, queries)
    found["tracin/mlp-normalized"] = with_dattri.tracin(model, [state], [1.0], train, queries, normalized=True)
    states = list(linear.states.values())
    found["tracin/lr"] = with_dattri.tracin(linear.model(), states, linear.learning_rates, train, queries)
    projections: dict[str, np.ndarray] = {}
    for name, value in LOGRA_DAMPINGS.items():
        found[f"logra/{name}"], projections = with_dattri.logra(
            case.model(), state, train, queries, LOGRA_RANK, value, PART_BATCH
        )
    found |= {f"logra/projection/{key}": value for key, value in projections.items()}
    for size in (num, PART_BATCH):
        for name, value in CG_REGULARIZATIONS.items():
            found[f"cg/{name}/batch-{size}"] = with_dattri.influence(
                "CG", model, state, train, queries, size, max_iter=CG_ITERATIONS, regularization=value
            )
        found[f"cg-lr/1e-2/batch-{size}"] = with_dattri.influence(
            "CG", linear.model(), states[-1], train, queries, size, max_iter=CG_ITERATIONS, regularization=1e-2
        )
        found[f"explicit/batch-{size}"] = with_dattri.influence(
            "Explicit",
            small.model(),
            small.states[1],
            small.rows("train"),
            small.rows("test"),
            size,
            regularization=EXPLICIT_REGULARIZATION,
        )
    found["ekfac"] = with_dattri.ekfac(case.model(), state, train, queries, EKFAC_DAMPING)
    return found


def dattri_llm_goldens() -> dict[str, np.ndarray]:
    """Return dattri-llm's scores of small training runs, and one run in which it selects."""
    found = {
        f"{name}/{key}": value
        for name, run in RUNS.items()
        for key, value in with_dattri_llm.trajectory_goldens(run).items()
    }
    chosen = with_dattri_llm.selection_goldens(RUNS["adamw"], SHARE)
    found |= {f"selection/{key}": value for key, value in chosen.items()}
    single = with_dattri_llm.selection_goldens(RUNS["adamw"], SHARE, torch.float32)
    return found | {"selection-float32/end": single["end"]}


RECIPES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "kronfluence": kronfluence_goldens,
    "traker": traker_goldens,
    "dattri": dattri_goldens,
    "dattri-llm": dattri_llm_goldens,
}
IN_DOUBLE = {"dattri-llm"}
"""Files whose float64 stays float64: its own scores are float32 all the same."""


def missing_peers(*names: str) -> list[str]:
    """Return what keeps values of these peers (none named: all) from being recomputed: one is absent or another."""
    problems = []
    for name in names or VERSIONS:
        version = VERSIONS[name]
        try:
            present = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} {version} is not installed")
        else:
            if present != version:
                problems.append(f"{name} is {present}, not {version}")
    return problems


def main() -> None:
    """Write every golden file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FILE", help=f"of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--keep-checkpoints", action="store_true", help="do not train the cases again")
    arguments = parser.parse_args()
    if problems := missing_peers(*arguments.names):
        parser.error("; ".join(problems) + ". Install with: pip install -e '.[peers]'")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if not arguments.keep_checkpoints:
        for name in EPOCHS:
            np.savez_compressed(GOLDENS / f"{name}.npz", **train_case(name))
    about = {"torch": np.array(torch.__version__), "seed": np.array(hashed_seed("peer goldens", "sampled labels"))}
    for name in arguments.names or RECIPES:
        values = {
            key: value.astype(np.float32)
            if value.dtype == np.float64 and value.ndim and name not in IN_DOUBLE
            else value
            for key, value in RECIPES[name]().items()
        }
        np.savez_compressed(GOLDENS / f"{name}.npz", version=np.array(VERSIONS[name]), **about, **values)
        print(f"{name}: {len(values)} arrays, {(GOLDENS / f'{name}.npz').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
