"""Rules that choose the training epoch of the features, and the projection dimension, without retraining.

The papers take the features of the last epoch. What one training run shows by itself is its loss, so a rule may use

    progress(e) = (loss at initialisation − validation loss at e) / (loss at initialisation − lowest validation loss)

and take the **earliest epoch at which progress reaches 0.9**: the features are learnt, the gradients not yet saturated.

Measured with IFFIM at ξ̄ = .5, regret against the best epoch at its own λ*, mean over k and training seeds (all but the
last row: 1 500 training examples, 600 for Concrete; k none, 512, 128; two seeds; 40 half-subsets):

    task (epochs)              progress ≥ .9   lowest loss   last (papers)
    mnist-mlp (1 … 50)              .013           .056          .098
    mnist-lr (1 … 20)               .005           .018          .018
    concrete-mlp (1 … 20)           .010           .019          .019
    fmnist-noisy (1 … 3)            .000           .000          .000
    fmnist-mlp-128 (1 … 50)         .021           .033          .129
    mnist-mlp, n = 5 000, + TRAK    .016           .099          .124

The threshold was chosen on the first four; the last two were looked at afterwards. Largest regret seen .064. With
n = 5 000, epoch 1 has progress .87: the choice was a near thing. All of it is MLPs and linear models with SGD; for
ResNets, Adam and language models nothing was measured.

Tried on the same first five and dropped (mean regret; progress ≥ .9 has .010, last .053): earliest within 10, 25, 50,
100 % of the lowest loss .018, .016, .014, .074; progress ≥ .5, .75, .8, .85, .95, .98: .071, .042, .012, .014, .009,
.015; training loss down by .6, .7, .8, .9 of its start: .066, .014, .005, .022 (as good at .8, but with noisy labels it
is never reached and the last epoch stands in); agreement with the predictions of the other epochs .018; smallest
effective dimension at λ* .069; largest λ*/σ_max .059, smallest .091; steepest ξ at .5 .070; largest trace .077.
Agreement between training seeds is no rule either: it is lowest at the best epoch.

Projection: in 50 of 50 (task, seed, epoch) at ξ̄ = .5 unprojected is best and k = 512 beats 128 in 48; mean regret 0,
.090, .186. At λ = 0 it is the reverse: .158, .078, .004. A wide projection is worth it only with λ chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tda_backend.errors import DataError, UsageError

PROGRESS = 0.9


def epoch_by_progress(
    epochs: Sequence[int],
    validation_losses: Sequence[float] | np.ndarray,
    initial_loss: float,
    share: float = PROGRESS,
) -> int:
    """Return the earliest epoch by which the validation loss has made ``share`` of its way down.

    Args:
        epochs: ``[E]`` epochs with a checkpoint, any order.
        validation_losses: ``[E]`` mean training loss (not the measurement) on the validation points.
        initial_loss: The same before training, or of a constant prediction: log(number of classes), or the variance of
            the targets.
        share: In (0, 1].

    Raises:
        UsageError: Numbers do not match, no epoch, or the share is out of range.
        DataError: A loss is not finite.
    """
    at, losses = _ordered(epochs, validation_losses)
    if not 0 < share <= 1:
        raise UsageError(f"The share {share} is outside (0, 1].", "The usual value is 0.9.")
    if not np.isfinite(initial_loss):
        raise DataError(f"The loss at initialisation is {initial_loss}.", "Give a finite number.")
    lowest = float(losses.min())
    if lowest >= initial_loss:  # nothing was learnt that validation shows: there is no way down to measure
        return int(at[losses.argmin()])
    reached = initial_loss - losses >= share * (initial_loss - lowest)
    return int(at[np.argmax(reached)])


def epoch_choices(
    epochs: Sequence[int], validation_losses: Sequence[float] | np.ndarray, initial_loss: float
) -> dict[str, int]:
    """Return the epoch that each rule takes: ``last`` (the papers'), ``lowest-loss`` and ``progress``.

    Raises:
        UsageError, DataError: As :func:`epoch_by_progress`.
    """
    at, losses = _ordered(epochs, validation_losses)
    return {
        "last": int(at[-1]),
        "lowest-loss": int(at[losses.argmin()]),
        "progress": epoch_by_progress(epochs, validation_losses, initial_loss),
    }


def widest_projection(dimensions: Sequence[int | None]) -> int | None:
    """Return the projection dimension to take when λ is chosen by ξ: none (``None``) if there is one, else the largest.

    Raises:
        UsageError: There is none to choose from.
    """
    if not dimensions:
        raise UsageError("There is no projection dimension to choose from.", "Give at least one; None is unprojected.")
    known = [value for value in dimensions if value is not None]
    return max(known) if len(known) == len(dimensions) else None


def _ordered(epochs: Sequence[int], losses: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at, values = np.asarray(epochs, dtype=np.int64), np.asarray(losses, dtype=np.float64)
    if at.ndim != 1 or at.shape != values.shape or not len(at) or len(set(at.tolist())) != len(at):
        raise UsageError(
            f"{values.size} validation losses are given for epochs {list(epochs)}.", "Give one loss per distinct epoch."
        )
    if not np.isfinite(values).all():
        raise DataError("A validation loss is not finite.", "Look for a diverged run or NaN in the validation data.")
    order = np.argsort(at)
    return at[order], values[order]
