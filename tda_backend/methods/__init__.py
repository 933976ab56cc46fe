"""The table of methods: command line, study files, forms on pages and the guide are generated from it."""

from tda_backend.methods.spec import Hyperparameter, MethodSpec, spectral_filter
from tda_backend.methods.table import METHODS, method

__all__ = ["METHODS", "Hyperparameter", "MethodSpec", "method", "spectral_filter"]
