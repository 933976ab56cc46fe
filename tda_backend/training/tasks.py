"""Old address of :mod:`tda_backend.models.tasks`, kept for people's own task files."""

from tda_backend.models.tasks import (
    BUILT_IN,
    MNIST_MEAN,
    MNIST_STD,
    ClassificationTask,
    MnistMLP,
    RegressionTask,
    margin,
)
from tda_backend.models.tasks.built_in.adaptive import MnistCNNAdamW, MnistMLPAdamW, MnistMLPGelu
from tda_backend.models.tasks.built_in.images import (
    FashionLR,
    FashionMLP,
    FashionMLP128,
    FashionNoisy,
    MnistLR,
    MnistLROptimum,
    MnistMLP512,
    MnistMLPEarly,
)
from tda_backend.models.tasks.built_in.language import SotuGPT
from tda_backend.models.tasks.built_in.rotated import RotatedMnist
from tda_backend.models.tasks.built_in.tables import (
    ConcreteLinear,
    ConcreteLinearOptimum,
    ConcreteMLP,
    DiabetesLR,
    DiabetesOptimum,
)

__all__ = [
    "BUILT_IN",
    "MNIST_MEAN",
    "MNIST_STD",
    "ClassificationTask",
    "ConcreteLinear",
    "ConcreteLinearOptimum",
    "ConcreteMLP",
    "DiabetesLR",
    "DiabetesOptimum",
    "FashionLR",
    "FashionMLP",
    "FashionMLP128",
    "FashionNoisy",
    "MnistCNNAdamW",
    "MnistLR",
    "MnistLROptimum",
    "MnistMLP",
    "MnistMLP512",
    "MnistMLPAdamW",
    "MnistMLPEarly",
    "MnistMLPGelu",
    "RegressionTask",
    "RotatedMnist",
    "SotuGPT",
    "margin",
]
