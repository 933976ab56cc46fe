"""What kronfluence 1.0.1 says: factors, pairwise and self scores of one model. Imports kronfluence when called."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tda_backend.models.tasks import margin

ScorePasses = Callable[[float | None], np.ndarray]


def _task(sampled: bool) -> Any:
    from kronfluence.task import Task

    class Classification(Task):
        """Cross-entropy at the given labels; the true Fisher takes the labels that came with the batch."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            inputs, labels, drawn = batch
            if sample and not sampled:
                raise AssertionError("kronfluence asked for sampled labels and none were given")
            return F.cross_entropy(model(inputs), drawn if sample else labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return margin(model(batch[0]), batch[1]).sum()

    return Classification()


def _arguments(kind: type, dtype: torch.dtype, **settings: Any) -> Any:
    """Return arguments in which every precision is ``dtype``."""
    fields = {name: dtype for name in kind.__dataclass_fields__ if name.endswith("dtype") and name != "amp_dtype"}
    return kind(**fields, **settings)


def kronfluence_scores(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    dampings: Mapping[str, float | None],
    *,
    sampled_labels: Tensor | None = None,
    strategy: str = "ekfac",
    dtype: torch.dtype | None = torch.float64,
    self_scores: bool = True,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Return ``pairwise/<damping>`` ``[m, n]`` and ``self/<damping>`` ``[n]`` as kronfluence gives them.

    Its pairwise score is ∇f'ᵀ(H+λ)⁻¹∇ℓ_i with f' the margin: the predicted *rise* of the margin when the example is
    removed, the negative of ours. ``damping_factor=None`` is 0.1·mean(Λ) of each layer.

    Args:
        model: In the dtype of the inputs.
        train: Inputs ``[n, d]`` and labels ``[n]``.
        queries: Inputs ``[m, d]`` and labels ``[m]``.
        dampings: Names and values of λ.
        sampled_labels: ``[n]`` labels for the true Fisher, used in both passes; ``None``: the empirical Fisher.
        strategy: ``ekfac``, ``kfac``, ``diagonal`` or ``identity``.
        dtype: Precision of every factor and product; ``None`` keeps kronfluence's defaults (float32).
        self_scores: Whether to compute self-influence too.
        batch_size: Examples per pass.
    """
    import logging

    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    logging.getLogger("kronfluence").setLevel(logging.ERROR)
    task = _task(sampled_labels is not None)
    inputs, labels = train
    drawn = labels if sampled_labels is None else sampled_labels
    train_set = TensorDataset(inputs, labels, drawn)
    query_set = TensorDataset(*queries, queries[1])
    settings = {"strategy": strategy, "use_empirical_fisher": sampled_labels is None}
    make = _arguments if dtype is not None else (lambda kind, _, **rest: kind(**rest))
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "golden", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder, log_level=40
        )
        analyzer.fit_all_factors("factors", train_set, batch_size, factor_args=make(FactorArguments, dtype, **settings))
        for name, value in dampings.items():
            arguments = make(ScoreArguments, dtype, damping_factor=value)
            analyzer.compute_pairwise_scores(
                f"pairwise {name}",
                "factors",
                query_set,
                train_set,
                batch_size,
                per_device_train_batch_size=batch_size,
                score_args=arguments,
            )
            found[f"pairwise/{name}"] = _only(analyzer.load_pairwise_scores(f"pairwise {name}"))
            if self_scores:
                analyzer.compute_self_scores(f"self {name}", "factors", train_set, batch_size, score_args=arguments)
                found[f"self/{name}"] = _only(analyzer.load_self_scores(f"self {name}"))
    return found


def _only(scores: Any) -> np.ndarray:
    return scores["all_modules"].double().numpy()
