"""Guide: what each number means, in plain words with its formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import services
from app.formats import MISSING, plain
from app.settings import label, value_text
from app.shared.errors import shows_errors
from tda_backend.studies.contract.method import Method
from tda_backend.studies.methods import Hyperparameter

_TEXT = r"""
### The question
The model gives one answer (the **query**). Which training examples made it answer so, and by how much? An
**attribution** gives every training example a score. **Positive helps**: more weight on that example raises the query's
goodness. Goodness is the margin $f = \log\frac{p_y}{1-p_y}$ of the right class; for losses and errors the sign is
turned, so that larger is always better.

### The knobs
- **λ**, the regularisation, in units of the mean Gram $F = J^\top J/n$. If it is small, tiny eigenvalues rule and the
  ranking is noise. If it is large, scores become plain gradient similarity.
- **k**, the dimension of the random projection of gradients; *none* is the exact answer. A small k is cheap and
  blurred. The larger k is, the more a good λ matters.
- **Epoch** of the checkpoint at which gradients are taken. Early ones are often a little better; retrained models
  always run to the end.
- **Method** and its hyper-parameters: the table below. Compare methods by rank, never by size of score.

With eigenvalues $\sigma$ of the curvature every λ is one filter, for most methods $\varphi(\sigma) =
1/(\sigma+\lambda)$. That is why the browser can recompute a whole ranking while you drag. At **λ = 0** the
pseudo-inverse is taken; it leaves out $\sigma \le n\,\varepsilon\,\sigma_{\max}$.

The page says which kind of curve a method has over λ. **Exact filter**: every λ is the method's own answer. **Mean of
a stochastic method**: what many runs would average to; this is LiSSA, whose scores diverge unless
$(\sigma+\lambda)/s < 2$. **Measured run**: computed once as published, at one λ. **No λ**: one ranking. With *relative
damping* λ counts in units of each layer's mean curvature; the slider shows the absolute values below it.

### Can it be trusted?
**LDS**, linear datamodelling score. Models are retrained on random subsets of the training data. For each query:
Spearman's rank correlation, over subsets, between the goodness that was measured and the sum of the scores of the
examples in the subset. 1 is perfect, 0 is chance. The page shows the mean over queries with a 95 % bootstrap interval
over subsets: with few subsets it is wide. *This query's own LDS* has no averaging behind it and is much noisier.

**ξ**, surrogate indicator. With $r = J\varphi'$ and $t_j = r^\top(K+\lambda I)^{-j}r$: $\xi = t_2/\sqrt{t_1t_3}$,
between 0 and 1. It needs no retraining. **λ\*** is where its mean over validation points crosses 0.5. Nothing
promises that λ* is the best λ: the **regret** (best LDS minus LDS at λ*) says how close it came.

**How flat is it?** The share of settings whose LDS is within 5 % of the best: near 100 % the setting hardly matters.

**Seeds.** Where a study trained its model several times, each card has the lowest and highest rank that its example
has over the training seeds at this λ: a wide interval says that the ranking is not to be relied on.

### Retrained, not estimated
**Subset removal.** The k training examples that help a query most are taken out, the model is retrained several times,
and the query has **flipped** if fewer than half of those models still get it right. Only queries that every model
trained on everything gets right take part. The curve is the share of flipped queries against k; a method that finds
what a prediction depends on rises early; random examples of the same class hardly raise it at all. **Brittleness** is
the smallest k. **Leave one out.** One example is taken out and the model retrained with the same seeds. The effect on a
query is small and noisy; the *ceiling* says what perfect scores could reach given the noise between seeds.

### Following a training run
**Unrolling** differentiates the training run itself, step by step, through what the optimizer remembers.
**AdamW-influence**: leaving one example out changes one gradient; that change passes through the moments $m$ and $v$
and every later step to the end of the run. One backward walk gives the effect of all training examples. It is a
derivative: exact for a small change, an approximation for a whole example. Adam, RMSProp and SGD work the same way.
**SGD assumption**: most attribution assumes that each step was plain SGD with the same learning rates. For a model
trained by AdamW the scale of such scores is wrong, and their order often is too.
**TSLOO** (*trajectory-specific leave-one-out*) is the truth here: the same run again, with the same start and batches,
without the example. *Fixed*: the batch's mean still divides by its full size; *smaller*: by one less.
**Error proxy**: the next term of the expansion, carried along the same run without retraining. *Its first term alone*:
only the part with the curvature of the final loss, which is cheap. It sizes and ranks errors roughly and is **no
bound**. **K-step look-ahead**: while training, each batch keeps the examples that lower the loss of a small selection
set most K steps later, by the same unrolling. K = 1 is online selection, K = the whole run offline. K and the learning
rate are chosen on a tuning set; a test set that neither has seen says what it brought.

### Choosing without retraining, or with little
**Rules for λ** are judged by their **regret** where there is ground truth: λ = 0, the papers' defaults, quantiles of
the spectrum, ξ at several thresholds; none of them retrains. **Racing** retrains as little as it can: it scores all
configurations and λ on the same retrained models, one more at a time, drops those that are surely worse, and stops
when the leader is within .01 LDS of the best at 95 % confidence. **Oracle** is the best after all retrainings.

**Better or not?** Two configurations are compared on the same bootstrap draws of the subsets: their noise is shared, so
a difference can be certain although both intervals overlap.

### What the papers say
A **claim** becomes one or several comparisons, each with a 95 % interval and a bound. *Reproduced*: the whole interval
of each lies on the right side. *Not reproduced*: one lies wholly on the wrong side. *Inconclusive*: neither; more
subsets would tell. *Not tested as stated*: our figure compares something else than the paper's statement is about.
**Shipped results** came with the program, computed with the code and on the machine they name.

### Which labels look wrong?
**Self-influence** is what an example does to its own loss: large where nothing else in the data would have taught the
model this label. From the top down, wrong labels come early. **AUC**: how often a wrong label ranks above a
right one; 0.5 is chance. **Recall**: the share of the wrong labels among the first 10, 20 … 90 %.

### The picture
Blue helps, orange harms. A green frame marks the query's own class. ✗ marks a training example that the trained model
gets wrong, written *label → prediction*. The bar under a card is its score against the largest one on screen.

### Keyboard on the λ slider
Arrow keys move it, with Shift finely; Page Up and Page Down by a decade; Home is λ = 0, End the largest λ.

### Sources
LDS, ξ and λ\*: arXiv 2505.24261 (§4, Algorithm 1). TRAK: arXiv 2303.14186. Removal: arXiv 2405.12186 (B.3).
AdamW-influence: arXiv 2605.18814; error proxy and look-ahead selection were derived here. Every page's address holds
the whole view: copy it to share what you see.
"""


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Guide", anchor=False)
    st.markdown(_TEXT)
    st.subheader("The methods", anchor="methods")
    st.caption("Positive helps throughout. Grid: what the papers sweep. `tda methods` prints the same.")
    for spec in services.methods().values():
        _show_method(spec)


def _show_method(spec: Method) -> None:
    with st.expander(f"{spec.title} · `{spec.name}`"):
        st.code(spec.formula, language=None, wrap_lines=True)
        needs = f"  \n**Needs** {', '.join(spec.needs)} of the task" if spec.needs else ""
        st.markdown(
            f"**Curve over λ** {spec.curve}  \n**Features** {plain(spec.features)}  \n"
            f"**Curvature** {plain(spec.curvature)}  \n**Seeds and checkpoints** {spec.reduction}  \n"
            f"**Cost** {plain(spec.cost)}  \n**Self-influence** {'yes' if spec.has_self_influence else 'no'}{needs}  \n"
            f"**Reference** {plain(spec.reference)}"
        )
        if spec.hyperparameters:
            st.dataframe(_hyperparameters(spec.hyperparameters), width="stretch", hide_index=True, placeholder=MISSING)


def _hyperparameters(items: Sequence[Hyperparameter]) -> pd.DataFrame:
    def text(values: Any) -> str:
        several = values if isinstance(values, list | tuple) else (values,)
        return ", ".join(value_text(value) for value in several)

    return pd.DataFrame(
        {
            "hyper-parameter": [label(item.name) for item in items],
            "meaning": [item.meaning for item in items],
            "allowed": [item.range for item in items],
            "default": ["all saved" if h.default is None else text(h.default) for h in items],
            "grid": [text(item.grid) if item.grid else "" for item in items],
        }
    )
