"""Image classifiers trained by AdamW: the settings in which attribution must know the optimizer."""

from __future__ import annotations

from torch import nn

from tda_backend.models.tasks.base import initialised, perceptron
from tda_backend.models.tasks.built_in.images import PIXELS, MnistTask
from tda_backend.types import TrainingSettings

PAPER_BETAS = (0.9, 0.95)
_SETTINGS = TrainingSettings(num_epochs=1, batch_size=64, learning_rate=1e-3, optimizer="adamw", betas=PAPER_BETAS)


class MnistMLPAdamW(MnistTask):
    """MLP 784-16-16-10, ReLU; AdamW 1e-3, betas 0.9 and 0.95, no weight decay, 1 epoch, batch 64.

    Source: arXiv 2605.18814 (AdamW-influence), on 6 000 training examples with learning rates 1e-3, 1e-4 and 1e-5.
    """

    name = "mnist-mlp-adamw"
    training = _SETTINGS

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 16, 16, 10), seed)


class MnistMLPGelu(MnistMLPAdamW):
    """The same MLP with GELU instead of ReLU: a loss with derivatives everywhere, which unrolling asks for.

    The paper's text names no activation. Taking one example out changes which units of a ReLU network are on, and no
    derivative sees that: the linear prediction is right for small weights and loses touch at weight 1.
    """

    name = "mnist-mlp-gelu"

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return initialised(
            seed,
            lambda: nn.Sequential(
                nn.Linear(PIXELS, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 10),
            ),
        )  # fmt: skip


class MnistCNNAdamW(MnistTask):
    """Two strided 5 × 5 convolutions (8 and 24 channels) with GELU, one linear layer; trained like the MLP.

    8 882 parameters. No pooling by maximum and no ReLU, so that the loss has derivatives everywhere; no batch norm, so
    that examples do not interact. The task's own, for arXiv 2605.18814's question on a network of another kind.
    """

    name = "mnist-cnn-adamw"
    training = _SETTINGS

    def build_model(self, seed: int) -> nn.Module:
        """Return the network, which takes flat pictures ``[b, 784]``, initialised from ``seed``."""
        return initialised(
            seed,
            lambda: nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, 8, 5, stride=2), nn.GELU(),
                nn.Conv2d(8, 24, 5, stride=2), nn.GELU(),
                nn.Flatten(), nn.Linear(24 * 4 * 4, 10),
            ),
        )  # fmt: skip


TASKS = (MnistMLPAdamW, MnistMLPGelu, MnistCNNAdamW)
PLACE = 4
