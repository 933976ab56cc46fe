"""Section about passes that take gradients, optional.

::

    [gradients]
    precision = "bf16"      # or "tf32"; "float32" as in a study without this section
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tda_backend.models.precision import FULL, PRECISIONS, Precision
from tda_backend.studies.config.section import Section, setting
from tda_backend.studies.config.values import one_of


@dataclass(frozen=True, kw_only=True)
class Gradients(Section):
    """Passes over a model at a checkpoint that are differentiated.

    Attributes:
        precision: In which they are computed. What they give is float32; training, retraining, goodness and all that
            is computed from gradients stay as they are.
    """

    NAME: ClassVar[str] = "gradients"

    precision: Precision = setting(one_of(*PRECISIONS), FULL)
