"""What a browser needs to score some training examples of one query at any λ by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tda_backend.spectral.contraction import ScoreMatrix, Source, num_train
from tda_backend.spectral.one_query import filtered_products


def payload_of(source: Source, query: int, positions: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Return the explorer's payload of one query: ``score_i(λ) = Σ_r products[i, r]·φ(eigenvalues[r]; λ)``.

    Returns:
        ``eigenvalues`` float32 ``[R]``, ``products`` float32 ``[c, R]`` (training seeds one after the other, divided
        by their number), ``positions`` (c training positions), ``filter`` (its name), ``parameters`` of the filter,
        ``num_train``, ``query``, ``cutoff`` (0: what the pseudo-inverse leaves out is not among the coordinates); for
        filters that depend on the query also ``parts`` (coordinates of each training seed), ``coordinates`` float64
        ``[R]`` (those of the query) and ``outside`` (squared norm of the query outside each seed's basis).
    """
    values, products = filtered_products(source, query, positions)
    payload: dict[str, Any] = {
        "eigenvalues": values.numpy().astype(np.float32),
        "products": np.ascontiguousarray(products.numpy(), dtype=np.float32),
        "positions": [int(value) for value in positions],
        "filter": "identity",
        "parameters": {},
        "num_train": num_train(source),
        "cutoff": 0.0,
        "query": query,
    }
    if isinstance(source, ScoreMatrix):
        return payload
    parameters = dict(source[0].filter.parameters())
    if any(part.filter.parameters().get("refuses_zero") for part in source):  # one singular curvature is enough
        parameters["refuses_zero"] = True
    payload |= {"filter": source[0].filter.name, "parameters": parameters}
    if source[0].filter.depends_on_query:
        rows = [[segment.rows("query", [query])[0].double() for segment in part.segments()] for part in source]
        payload["parts"] = [sum(len(row) for row in part) for part in rows]
        payload["coordinates"] = np.concatenate([row.numpy() for part in rows for row in part])
        payload["outside"] = [0.0 if p.query_outside is None else float(p.query_outside[query]) for p in source]
    return payload
