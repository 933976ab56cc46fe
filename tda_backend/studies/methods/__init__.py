"""The families of methods, and their table. Command line, study files, forms and the guide are made from it."""

from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.contract.method import METHODS, Method, Style, method
from tda_backend.studies.methods.hyperparameters import UNKNOWN_STYLE
from tda_backend.studies.methods.table import ROWS

__all__ = ["METHODS", "ROWS", "UNKNOWN_STYLE", "Hyperparameter", "Method", "Style", "method"]
