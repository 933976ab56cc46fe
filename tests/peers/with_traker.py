"""What traker 0.3.2 says: TRAK with its pure-torch projector. Imports traker when called."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def traker_scores(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    dim: int,
    regularizations: dict[str, float],
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, np.ndarray]:
    """Return ``scores/<name>`` ``[n, m]`` as traker gives them, and ``features`` ``[n, k]``, ``queries`` ``[m, k]``.

    Features are Pg/√p with entries of P drawn from N(0, 1), not divided by √k. traker adds λ to XᵀX and then divides
    the inverse by its mean absolute entry ("center a bit"), so that λ scales nothing: ``inverse_scale/<name>`` is that
    divisor, recomputed from the features.

    Args:
        model: In float32 (traker stores no other precision).
        train: Inputs and labels of the n train examples.
        queries: Inputs and labels of the m queries.
        dim: k.
        regularizations: Names and values of traker's λ.
        seed: Projector seed.
        batch_size: Examples per call.
    """
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    num_parameters = sum(p.numel() for p in model.parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found: dict[str, np.ndarray] = {}
    for name, value in regularizations.items():
        with tempfile.TemporaryDirectory() as folder:
            # In one block (k ≤ block_size) scoring fails: finalize_features frees the matrix and nothing redraws it.
            projector = BasicProjector(
                num_parameters, dim, seed, ProjectionType.normal, torch.device("cpu"), block_size=min(100, dim // 2)
            )
            traker: Any = TRAKer(
                model,
                "image_classification",
                len(train[1]),
                save_dir=folder,
                device="cpu",
                projector=projector,
                proj_dim=dim,
                use_half_precision=False,
                lambda_reg=value,
                logging_level=40,
            )
            traker.load_checkpoint(state, model_id=0)
            for part in zip(train[0].split(batch_size), train[1].split(batch_size), strict=True):
                traker.featurize(part, num_samples=len(part[1]))
            features = np.array(traker.saver.current_store["grads"])
            traker.finalize_features()
            traker.start_scoring_checkpoint("golden", state, 0, len(queries[1]))
            for part in zip(queries[0].split(batch_size), queries[1].split(batch_size), strict=True):
                traker.score(part, num_samples=len(part[1]))
            found[f"scores/{name}"] = np.array(traker.finalize_scores("golden"))
            found["features"] = features
            found["queries"] = np.array(traker.saver.current_store["golden_grads"])
            # BasicScoreComputer.get_x_xtx_inv, as it is written there
            gram = torch.from_numpy(features.T @ features)
            inverse = torch.linalg.inv(gram + value * torch.eye(dim))
            found[f"inverse_scale/{name}"] = np.array(float(inverse.abs().mean()))
    return found
