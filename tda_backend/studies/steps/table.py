"""The kinds of step: a new kind is a row here."""

from __future__ import annotations

from collections.abc import Mapping

from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.steps.base_models import BaseModels
from tda_backend.studies.steps.claims import Claims
from tda_backend.studies.steps.compare_unrolled import CompareRun, SummarizeRuns
from tda_backend.studies.steps.coordinates import Curvature, Kronecker
from tda_backend.studies.steps.detect import Detect
from tda_backend.studies.steps.displays import NamePredictions, ShowExamples
from tda_backend.studies.steps.evaluate import Evaluate
from tda_backend.studies.steps.examples import Examples
from tda_backend.studies.steps.features import Features
from tda_backend.studies.steps.leave_one_out import ChooseExamples, LeaveOneOutScores, LeaveOut
from tda_backend.studies.steps.lookahead import SelectExamples
from tda_backend.studies.steps.lookahead_summary import SummarizeSelections
from tda_backend.studies.steps.removal import Removal, RemovalOrder
from tda_backend.studies.steps.rules import Rules
from tda_backend.studies.steps.scores import Scores
from tda_backend.studies.steps.spectrum import SpectrumStep
from tda_backend.studies.steps.train import Downsample, Retrain, Train, TrainHalf
from tda_backend.studies.steps.unroll import EstimateError, PredictEffects, TrueEffects

ROWS: tuple[type[Step], ...] = (
    Examples,
    Train,
    TrainHalf,
    Retrain,
    Downsample,
    Features,
    SpectrumStep,
    Curvature,
    Kronecker,
    Scores,
    Evaluate,
    Rules,
    Claims,
    BaseModels,
    RemovalOrder,
    Removal,
    ChooseExamples,
    LeaveOut,
    LeaveOneOutScores,
    Detect,
    PredictEffects,
    TrueEffects,
    EstimateError,
    CompareRun,
    SummarizeRuns,
    SelectExamples,
    SummarizeSelections,
    ShowExamples,
    NamePredictions,
)
KINDS: Mapping[str, type[Step]] = {kind.NAME: kind for kind in ROWS}
"""Kinds of step by name."""
