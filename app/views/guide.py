"""Guide: what each number means, in plain words with its formula."""

from __future__ import annotations

import streamlit as st

from app.components.errors import shows_errors

_TEXT = r"""
### The question
For one answer of the model (the **query**): which training examples made it so, and by how much? A score for every
training example is an **attribution**. **Positive helps**: more weight on that example raises the query's goodness.
Goodness is the margin $f = \log\frac{p_y}{1-p_y}$ of the right class; for losses and errors the sign is turned, so that
larger is always better.

### The knobs
- **λ**, the regularisation, in units of the mean Gram $F = J^\top J/n$. Small: tiny eigenvalues rule and the ranking is
  noise. Large: plain gradient similarity.
- **k**, the dimension of the random projection of gradients; *none* is the exact answer. Small: cheap and blurred. The
  larger k, the more a good λ matters.
- **Epoch** of the checkpoint at which gradients are taken. Early ones are often a little better; retrained models
  always run to the end.
- **Method**. IFFIM, the influence function with the Fisher matrix: $-\varphi'^\top(F+\lambda I)^{-1}\nabla\ell$.
  TRAK: the same form with margin gradients, weighted by $1-p$. TracIn: $-\sum_c \eta_c\,\varphi'_c\cdot\nabla\ell_c$,
  no curvature and no λ. Compare methods by rank, never by size of score.

With eigenvalues $\sigma$ of the curvature every λ is one filter, $\varphi(\sigma) = 1/(\sigma+\lambda)$. That is why
the browser can recompute a whole ranking while you drag. At **λ = 0** the pseudo-inverse is taken, leaving out
$\sigma \le n\,\varepsilon\,\sigma_{\max}$.

### Can it be trusted?
**LDS**, linear datamodelling score. Models are retrained on random subsets of the training data. For each query:
Spearman's rank correlation, over subsets, between the goodness that was measured and the sum of the scores of the
examples in the subset. 1 is perfect, 0 is chance. The page shows the mean over queries with a 95 % bootstrap interval
over subsets: with few subsets it is wide. *This query's own LDS* has no averaging behind it and is much noisier.

**ξ**, surrogate indicator. With $r = J\varphi'$ and $t_j = r^\top(K+\lambda I)^{-j}r$: $\xi = t_2/\sqrt{t_1t_3}$,
between 0 and 1. It needs no retraining. **λ\*** is where its mean over validation points crosses 0.5. Nothing
promises that λ* is the best λ: the **regret** (best LDS minus LDS at λ*) says how close it came.

**How flat is it?** The share of settings whose LDS is within 5 % of the best: near 100 % the setting hardly matters.

### The picture
Blue helps, orange harms. A green frame marks the query's own class. ✗ marks a training example that the trained model
gets wrong, written *label → prediction*. The bar under a card is its score against the largest one on screen.

### Keyboard on the λ slider
Arrow keys move it, with Shift finely; Page Up and Page Down by a decade; Home is λ = 0, End the largest λ.

### Sources
LDS, ξ and λ\*: arXiv 2505.24261 (§4, Algorithm 1). TRAK: arXiv 2303.14186. Every page's address holds the whole view:
copy it to share what you see.
"""


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Guide", anchor=False)
    st.markdown(_TEXT)
