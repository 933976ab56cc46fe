"""How much time, memory and disk it takes to judge a configuration: its scores, ξ, and the sums of subsets."""

from __future__ import annotations

from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.contract.method import method
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import GIB, doubles
from tda_backend.studies.pipeline.step import Cost
from tda_backend.studies.pipeline.times import LEAST_SECONDS, copied, product

QUERY_BLOCK = 128
BLOCK_NUMBERS = 2**25
"""Queries whose scores are held at once: so many, or fewer where these are more numbers (128 MiB)."""
_ROW_BYTES = 40
"""Of a row of its tables on the disk."""


def evaluation_cost(planning: Planning, configuration: Configuration, num_subsets: int) -> Cost:
    """Return what judging a configuration takes, by so many retrained subsets at each α."""
    study, sizes = planning.study, planning.sizes
    alphas, count = len(study.ground_truth.alphas), _count(planning, configuration)
    values = min(num_subsets, 1) * alphas * count * (sizes.num_queries + study.evaluation.bootstrap)
    examples = 2 * sizes.num_queries * min(study.evaluation.top, sizes.num_train)
    return Cost(
        _seconds(planning, configuration, num_subsets),
        _memory(planning, configuration, num_subsets),
        stored_gib=(4 * values + 8 * examples + _ROW_BYTES * count) / GIB,
    )


def _count(planning: Planning, configuration: Configuration) -> int:
    """Return at how many λ a configuration is judged."""
    study = planning.study
    return len(study.regularizations) + len(study.evaluation.quantiles) + 2 if configuration.has_regularization else 1


def _seconds(planning: Planning, configuration: Configuration, num_subsets: int) -> float:
    """Return what an evaluation takes: the scores at one λ; at all λ ξ, and the sums of subsets with their ranks."""
    study, sizes = planning.study, planning.sizes
    count = _count(planning, configuration)
    inner = min(configuration.projection_dim or sizes.num_train, sizes.num_train)
    queries, alphas = sizes.num_queries, len(study.ground_truth.alphas)
    scored = product(sizes, queries, inner, sizes.num_train, single=True) + copied(
        sizes, 10 * sizes.numbers(queries, sizes.num_train)
    )
    indicated = copied(sizes, 6 * doubles(count, sizes.num_validation + queries, inner))
    summed = product(sizes, num_subsets * alphas, sizes.num_train, inner) + product(
        sizes, count * queries, inner, num_subsets * alphas
    )
    ranked = copied(sizes, doubles(count, queries * alphas, study.evaluation.bootstrap * min(num_subsets, 1)))
    return 2 * LEAST_SECONDS + configuration.num_sources * (scored + indicated + summed) + ranked


def _memory(planning: Planning, configuration: Configuration, num_subsets: int) -> float:
    """Return what an evaluation holds: its sources, scores of some queries, subsets and their sums, ξ."""
    study, sizes, spec = planning.study, planning.sizes, method(configuration.method)
    draws = (study.projection.draws or 1) if configuration.projection_dim is not None else 1
    sources = configuration.num_sources * draws * spec.source_gib(planning, configuration)
    count = _count(planning, configuration)
    masks = num_subsets * sizes.num_train * (len(study.ground_truth.alphas) / 8 + 1)
    inner = min(configuration.projection_dim or sizes.num_train, sizes.num_train)
    return (
        sources
        + 1.5 * sizes.numbers(min(QUERY_BLOCK * sizes.num_train, BLOCK_NUMBERS, sizes.num_queries * sizes.num_train))
        + doubles(masks)
        + 1.5 * doubles(count, num_subsets, sizes.num_queries)
        + 2 * doubles(sizes.num_validation, inner)
    )
