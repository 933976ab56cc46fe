"""Hyper-parameters and styles that several families of methods share. Grids and defaults are those of METHODS §8."""

from __future__ import annotations

from tda_backend.studies.config.hyperparameter import NONE, Hyperparameter
from tda_backend.studies.contract.method import EMPIRICAL_FISHER, Style

BLUE, GREEN, VIOLET, GRAY, TEAL = "#2f7fd1", "#2a9d80", "#9a63cf", "#7d8795", "#1596b5"
"""Colours of families; orange is kept for what harms."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px 2px 2px 2px")
INFLUENCE = "∇goodness · −∇ℓ"
BASELINES, ALONG_THE_RUN = "baselines", "along the training run"
UNKNOWN_STYLE = Style(BASELINES, GRAY)
"""Of a method in the results of another version."""

EPOCHS = Hyperparameter("epochs", "epochs", "checkpoint where features are taken", grid=(1, 5, 10, 20, 50))
STOP = Hyperparameter("epochs", "epochs", "last epoch of the trajectory", grid=(20, 50))
PROJECTION = Hyperparameter(
    "projection_dim",
    "dimension",
    "dimension k of the random projection of gradients",
    (NONE,),
    (128, 512, 2048, 8192),
    title="projection k",
)
UNPROJECTED = Hyperparameter(
    "unprojected_epochs",
    "epochs",
    "epochs at which the unprojected answer is computed too",
    sweep=False,
    may_be_empty=True,
)
TRUE_FISHER, GGN, HESSIAN = "true-fisher", "ggn", "hessian"
CURVATURES = (EMPIRICAL_FISHER, TRUE_FISHER, GGN, HESSIAN)
CURVATURE = Hyperparameter(
    "curvature", "choice", "which curvature of the mean training loss", (EMPIRICAL_FISHER,), choices=CURVATURES
)
INDEFINITE = Hyperparameter(
    "indefinite",
    "choice",
    "what becomes of negative eigenvalues",
    "refuse",
    choices=("refuse", "absolute", "clip"),
    sweep=False,
)
FISHER = Hyperparameter(
    "fisher",
    "choice",
    "labels sampled from the model (true) or those of the data (empirical)",
    ("true",),
    choices=("true", "empirical"),
    noun="Fisher",
)
UNTRACKED = Hyperparameter(
    "untracked",
    "choice",
    "what to do with layers that have no Kronecker factors",
    "refuse",
    choices=("refuse", "leave-out"),
    sweep=False,
)
RELATIVE = "relative"
DAMPING = Hyperparameter(
    "damping",
    "choice",
    "λ in units of the curvature, or relative to each layer's mean eigenvalue",
    ("absolute",),
    choices=("absolute", RELATIVE),
    noun="damping",
    is_always_labelled=True,
)
MAX_ITER = Hyperparameter(
    "max_iter", "whole", "steps of conjugate gradients, no stopping rule", (10,), (5, 10, 20, 50), quick=5
)
SCALING = Hyperparameter("scaling", "real", "scale s; 0 < (σ+λ)/s < 2 must hold", (5.0,), (5, 10, 50, 100), low=0)
DEPTH = Hyperparameter("depth", "whole", "recursion depth T", (1000,), (100, 1000, 5000), quick=50)
REGULARIZATION = Hyperparameter(
    "regularization", "real", "λ of the measured run", (1e-2,), (1e-4, 1e-3, 1e-2), low=0, title="λ of the run"
)
NUM_SEGMENTS = Hyperparameter("num_segments", "whole", "segments L of the trajectory", (3,))
NUM_CHECKPOINTS = Hyperparameter("num_checkpoints", "whole", "checkpoints C, over all segments", (6,))
SELF_INFLUENCE = Hyperparameter(
    "self_influence",
    "flag",
    "also take every training example as a query of its own loss (n more queries)",
    False,
    sweep=False,
)
WEIGHT_DECAY = Hyperparameter("weight_decay", "flag", "L2 decay joins the curvature", True, sweep=False)
