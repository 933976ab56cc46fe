"""The rows of the method table.

A gradient-based method is features → basis → filter → contraction. Signs: scores are [query, train] and positive
helps (METHODS §0). Grids and defaults are those of METHODS §8.
"""

from __future__ import annotations

import difflib

from tda_backend.errors import UsageError
from tda_backend.methods.spec import NONE, Hyperparameter, MethodSpec

EPOCHS = Hyperparameter("epochs", "epochs", "checkpoint where features are taken", grid=(1, 5, 10, 20, 50))
STOP = Hyperparameter("epochs", "epochs", "last epoch of the trajectory", grid=(20, 50))
PROJECTION = Hyperparameter(
    "projection_dim", "dimension", "dimension k of the random projection of gradients", (NONE,), (128, 512, 2048, 8192)
)
UNPROJECTED = Hyperparameter(
    "unprojected_epochs", "epochs", "epochs at which the unprojected answer is computed too", sweep=False
)
CURVATURES = ("empirical-fisher", "true-fisher", "ggn", "hessian")
CURVATURE = Hyperparameter(
    "curvature", "choice", "which curvature of the mean training loss", ("empirical-fisher",), choices=CURVATURES
)
INDEFINITE = Hyperparameter(
    "indefinite", "choice", "what becomes of negative eigenvalues", "refuse", choices=("refuse", "absolute", "clip"),
    sweep=False,
)  # fmt: skip
FISHER = Hyperparameter(
    "fisher", "choice", "labels sampled from the model (true) or those of the data (empirical)", ("true",),
    choices=("true", "empirical"),
)  # fmt: skip
UNTRACKED = Hyperparameter(
    "untracked", "choice", "what to do with layers that have no Kronecker factors", "refuse",
    choices=("refuse", "leave-out"), sweep=False,
)  # fmt: skip
DAMPING = Hyperparameter(
    "damping", "choice", "λ in units of the curvature, or relative to each layer's mean eigenvalue", ("absolute",),
    choices=("absolute", "relative"),
)  # fmt: skip
MAX_ITER = Hyperparameter("max_iter", "whole", "steps of conjugate gradients, no stopping rule", (10,), (5, 10, 20, 50))
SCALING = Hyperparameter("scaling", "real", "scale s; 0 < (σ+λ)/s < 2 must hold", (5.0,), (5, 10, 50, 100), low=0)
DEPTH = Hyperparameter("depth", "whole", "recursion depth T", (1000,), (100, 1000, 5000))
REGULARIZATION = Hyperparameter("regularization", "real", "λ of the measured run", (1e-2,), (1e-4, 1e-3, 1e-2), low=0)
NUM_SEGMENTS = Hyperparameter("num_segments", "whole", "segments L of the trajectory", (3,))
NUM_CHECKPOINTS = Hyperparameter("num_checkpoints", "whole", "checkpoints C, over all segments", (6,))
SELF_INFLUENCE = Hyperparameter(
    "self_influence", "flag", "also take every training example as a query of its own loss (n more queries)", False,
    sweep=False,
)  # fmt: skip
WEIGHT_DECAY = Hyperparameter("weight_decay", "flag", "L2 decay joins the curvature", True, sweep=False)

ASSUME = Hyperparameter(
    "assume", "choice", "the optimizer that the linearised steps are of", ("as trained",),
    choices=("as trained", "sgd"),
)  # fmt: skip
BATCH_CURVATURE = Hyperparameter(
    "curvature", "choice", "second derivative of each batch's loss", ("hessian",),
    choices=("hessian", "gauss-newton", "fisher", "none"),
)  # fmt: skip

INFLUENCE = "∇goodness · −∇ℓ"


def _kronecker(name: str, title: str, curvature: str, formula: str, cost: str, reference: str) -> MethodSpec:
    return MethodSpec(
        name, title, "kronecker", "exact filter", INFLUENCE, curvature, "mean", formula,
        (EPOCHS, FISHER, DAMPING, UNTRACKED), cost, reference, needs=("outputs",),
        default_regularization=1e-8,
    )  # fmt: skip


def _source(name: str, title: str, formula: str, cost: str, reference: str) -> MethodSpec:
    return MethodSpec(
        name, title, "scores", "no λ", "∇goodness(θ_final) · segment means of −∇ℓ", "EK-FAC, averaged by segment",
        "segment chain", formula,
        (STOP, NUM_SEGMENTS, NUM_CHECKPOINTS, FISHER, WEIGHT_DECAY, SELF_INFLUENCE, UNTRACKED), cost, reference,
        needs=("outputs", "training"),
    )  # fmt: skip


_ROWS = (
    MethodSpec(
        "iffim", "Influence function (FIM)", "spectrum", "exact filter", INFLUENCE, "empirical Fisher", "mean",
        "−φ'ᵀ (F + λI)⁻¹ g_i,  F = JᵀJ/n", (EPOCHS, PROJECTION, UNPROJECTED),
        "one gradient pass; N²·(d_in+d_out) products; one eigendecomposition of min(n, k)",
        "arXiv 2505.24261, §2 and appendix A", default_regularization=0.0,
    ),
    MethodSpec(
        "trak", "TRAK", "spectrum", "exact filter", "∇margin · ∇margin", "margin Gram", "product of means",
        "[mean_m φ_mᵀ (Φ_mᵀΦ_m/n + λI)⁻¹ Φ_mᵀ] ⊙ [mean_m (1 − p_i)]",
        (EPOCHS, PROJECTION, UNPROJECTED,
         Hyperparameter("half_subset_models", "whole", "models trained on random halves of the data; 0: the seeds' own",
                        (0,), (0, 10), low=0)),
        "as iffim, once per model", "arXiv 2303.14186, §3", needs=("margin",), default_regularization=0.0,
    ),
    MethodSpec(
        "tracin", "TracIn", "scores", "no λ", INFLUENCE, "none", "weighted sum", "−Σ_c η_c φ'_c · ∇ℓ(z_i; θ_c)",
        (EPOCHS,
         Hyperparameter("normalization", "flag", "divide both gradients by their norm", (False,), (False, True)),
         Hyperparameter("num_checkpoints", "whole", "the last so many of the epochs", 10, sweep=False),
         Hyperparameter("maximum_epochs", "epochs", "epochs at which the sum ends; default: the last", sweep=False),
         PROJECTION),
        "one gradient pass per checkpoint; m·n·(d_in+d_out) products", "arXiv 2002.08484, eq. 1; 2505.24261, app. A",
        filter_name="identity",
    ),
    MethodSpec(
        "if-explicit", "Influence function (explicit)", "curvature", "exact filter", INFLUENCE,
        "Hessian, GGN, true or empirical Fisher", "mean", "−φ'ᵀ (H + λI)⁻¹ g_i",
        (EPOCHS, Hyperparameter("curvature", "choice", CURVATURE.meaning, ("hessian",), choices=CURVATURES),
         PROJECTION, INDEFINITE),
        "p × p matrix (p ≤ 10 000), or k × k when projected; one eigendecomposition",
        "arXiv 1703.04730; 2505.24261, appendix A", default_regularization=1e-5,
    ),
    MethodSpec(
        "if-cg", "Influence function (CG)", "spectrum", "exact filter", INFLUENCE,
        "empirical Fisher; others for small models", "mean",
        "−p_t(F + λI; φ')ᵀ g_i,  t steps of conjugate gradients from x₀ = φ'",
        (EPOCHS, PROJECTION, CURVATURE, Hyperparameter(**{**vars(MAX_ITER), "in_filter": True}), INDEFINITE),
        "the coordinates of iffim; t·r per query and λ", "arXiv 2505.24261, appendix A.1", filter_name="krylov",
        default_regularization=1e-2,
    ),
    MethodSpec(
        "if-cg-run", "Influence function (CG, run)", "scores", "measured run", INFLUENCE,
        "Hessian, GGN or empirical Fisher", "mean", "t steps of conjugate gradients on curvature-vector products",
        (EPOCHS, MAX_ITER, REGULARIZATION,
         Hyperparameter("curvature", "choice", CURVATURE.meaning, ("empirical-fisher",),
                        choices=("empirical-fisher", "ggn", "hessian"))),
        "t products of the curvature with m vectors", "arXiv 2505.24261, appendix A.1", has_self_influence=False,
    ),
    MethodSpec(
        "if-lissa", "Influence function (LiSSA)", "spectrum", "mean of a stochastic method", INFLUENCE,
        "empirical Fisher; others for small models", "mean", "−φ'ᵀ [1−(1−(F+λ)/s)^{T+1}](F+λ)⁻¹ g_i",
        (EPOCHS, PROJECTION, CURVATURE, Hyperparameter(**{**vars(SCALING), "in_filter": True}),
         Hyperparameter(**{**vars(DEPTH), "in_filter": True}), INDEFINITE),
        "the coordinates of iffim", "arXiv 1602.03943; 2505.24261, appendix A.1", filter_name="lissa_mean",
        default_regularization=1e-3,
    ),
    MethodSpec(
        "if-lissa-run", "Influence function (LiSSA, run)", "scores", "measured run", INFLUENCE,
        "Hessian, GGN or empirical Fisher of mini-batches", "mean", "x ← φ' + (1−λ/s)x − H_B x/s,  result x_T/s",
        (EPOCHS, SCALING, DEPTH, Hyperparameter(**{**vars(REGULARIZATION), "default": (1e-3,)}),
         Hyperparameter("batch_size", "whole", "examples of each step's batch", (50,)),
         Hyperparameter("repeats", "whole", "independent recursions to average", 1, sweep=False),
         Hyperparameter("curvature", "choice", CURVATURE.meaning, ("empirical-fisher",),
                        choices=("empirical-fisher", "ggn", "hessian"))),
        "T products of a batch's curvature with m vectors", "arXiv 1602.03943; 2505.24261, appendix A.1",
        has_self_influence=False,
    ),
    MethodSpec(
        "if-arnoldi", "Influence function (Arnoldi)", "curvature", "exact filter", INFLUENCE,
        "Krylov basis of the curvature", "mean", "−φ'ᵀ V (Θ + λ)⁻¹ Vᵀ g_i,  (Θ, V) the largest Ritz pairs",
        (EPOCHS, CURVATURE, Hyperparameter("num_iterations", "whole", "Krylov dimension", (200,)),
         Hyperparameter("num_eigenvalues", "whole", "Ritz pairs that are kept", (50,), (50, 100)), INDEFINITE),
        "one curvature product per iteration", "arXiv 2112.03052", default_regularization=1e-5,
    ),
    _kronecker("ekfac", "EK-FAC influence", "Kronecker basis, corrected eigenvalues",
               "−Σ_layers (Q_SᵀΦ'Q_A) · (Q_Sᵀ G_i Q_A) ⊘ (Λ + λ)",
               "two gradient passes for factors, one for rotation; 2·m·n·p products per λ", "arXiv 2308.03296, §2.4"),
    _kronecker("kfac", "K-FAC influence", "Kronecker factors", "as EK-FAC with Λ = D_S ⊗ D_A",
               "one gradient pass less than EK-FAC", "arXiv 1503.05671; 2308.03296"),
    _kronecker("diagonal", "Diagonal Fisher influence", "diagonal of the Fisher", "−Σ_j φ'_j g_ij / (F_jj + λ)",
               "one gradient pass", "arXiv 2308.03296, appendix"),
    MethodSpec(
        "logra", "LoGra", "curvature", "exact filter", "Kronecker-projected ∇goodness · −∇ℓ, per layer",
        "empirical Fisher of the projected gradients, per layer", "mean", "−Σ_layers φ̃'ᵀ (C + d·tr(C)/dim·I)⁻¹ g̃_i",
        (EPOCHS, Hyperparameter("rank", "whole", "projection rank on each side of a layer", (64,), (16, 32, 64)),
         Hyperparameter("initialization", "choice", "random, or top eigenvectors of the layer's factors", ("random",),
                        choices=("random", "pca")),
         Hyperparameter(**{**vars(DAMPING), "default": ("relative",)}), UNTRACKED),
        "one gradient pass; one eigendecomposition of min(n, rank²) per layer", "arXiv 2405.13954, §3",
        default_regularization=1e-3,
    ),
    _source("source", "SOURCE", "Σ_ℓ v_ℓ·ḡ_ℓ,  v = (1−e^{−cH̄})H̄⁻¹q,  q ← e^{−cH̄}q backwards",
            "three passes per checkpoint; 2·m·n·p products per checkpoint", "arXiv 2405.12186, §3"),
    _source("fast-source", "Fast-SOURCE", "SOURCE at the mean parameters of each segment",
            "three passes per segment; 2·m·n·p products per segment", "arXiv 2405.12186, appendix"),
    MethodSpec(
        "hydra-fast", "HyDRA-fast", "scores", "no λ", "∇goodness(θ_final) · −∇ℓ(θ_t) at every step", "none",
        "weighted sum", "−φ'(θ_T)ᵀ Σ_t (η_t/B) 1{z∈B_t} ∇ℓ(z; θ_t)", (STOP,),
        "the training run again, with m products per example and epoch", "arXiv 2102.02515", filter_name="identity",
        needs=("training",), has_self_influence=False,
    ),
    MethodSpec(
        "unrolled-influence", "AdamW-influence (unrolled)", "scores", "no λ",
        "∇goodness(θ_final) · −∇ℓ(θ_t) at every step", "each batch's own", "weighted sum",
        "−Σ_t U_t R_t ∇ℓ(z; θ_t)/B · 1{z∈B_t},  U_{t−1} = U_t (A_t + R_t H_t)", (STOP, ASSUME, BATCH_CURVATURE),
        "the training run again; one curvature product per query and step", "arXiv 2605.18814; METHODS §6",
        filter_name="identity", needs=("training",), has_self_influence=False,
    ),
    MethodSpec(
        "repsim", "Representation similarity", "scores", "no λ", "last hidden activations", "none", "mean",
        "cos(h(z'), h(z_i))", (EPOCHS,), "one forward pass", "arXiv 2405.12186, appendix B.4", filter_name="identity",
        has_self_influence=False,
    ),
    MethodSpec(
        "gradient-similarity", "Gradient similarity", "scores", "no λ", INFLUENCE, "none", "mean",
        "−φ'·∇ℓ_i, or its cosine",
        (EPOCHS, Hyperparameter("similarity", "choice", "dot product or cosine", ("dot", "cosine"),
                                choices=("dot", "cosine"))),
        "one gradient pass", "arXiv 2002.08484, at one checkpoint", filter_name="identity",
    ),
    MethodSpec(
        "nearest-inputs", "Nearest inputs", "scores", "no λ", "inputs", "none", "mean",
        "±similarity of the inputs, + for the same label",
        (Hyperparameter("metric", "choice", "−distance or cosine", ("euclidean",), choices=("euclidean", "cosine")),
         Hyperparameter("signed", "flag", "same label helps, another one harms", (True,), (True, False))),
        "one product of the inputs", "arXiv 1811.09720 (kernel replaced by inputs)", filter_name="identity",
        needs=("labels",), has_self_influence=False,
    ),
    MethodSpec(
        "empirical-influence", "Empirical influence", "scores", "measured run", "retrained models", "none", "mean",
        "mean goodness of subsets with z_i − mean of those without",
        (Hyperparameter("subsets", "whole", "retrained subsets of its own, never those of LDS", (50,), low=4),
         Hyperparameter("subset_fraction", "real", "share of the training set in each", (0.5,), low=0, high=1)),
        "one retraining per subset", "arXiv 2008.03703", filter_name="identity", needs=("training",),
        has_self_influence=False,
    ),
    MethodSpec(
        "random", "Random scores", "scores", "no λ", "none", "none", "mean", "independent normal numbers", (),
        "none", "the floor that every method must beat", filter_name="identity", has_self_influence=False,
    ),
)  # fmt: skip

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _ROWS}


def method(name: str) -> MethodSpec:
    """Return a method's row.

    Raises:
        UsageError: The name is unknown; lists the allowed ones.
    """
    if name not in METHODS:
        guess = difflib.get_close_matches(name, METHODS, n=1)
        meant = f" Did you mean {guess[0]!r}?" if guess else ""
        raise UsageError(f"Unknown method {name!r}.{meant}", f"Allowed: {', '.join(METHODS)}.")
    return METHODS[name]
