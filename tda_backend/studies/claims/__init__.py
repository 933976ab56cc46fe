"""The kinds of claims, and their table. Importing the package fills it."""

from tda_backend.studies.claims.table import KINDS
from tda_backend.studies.contract.claim import CLAIM_KINDS, check_claims, with_alpha

__all__ = ["CLAIM_KINDS", "KINDS", "check_claims", "with_alpha"]
