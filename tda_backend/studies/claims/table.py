"""The table of kinds of claims, in the order in which they are listed."""

from __future__ import annotations

from typing import Any

from tda_backend.studies.claims.flips import Flips
from tda_backend.studies.claims.lds import Differs, Greater, Level, Ratio
from tda_backend.studies.claims.rising import Rising
from tda_backend.studies.claims.rules import Regret, Rule
from tda_backend.studies.claims.same_shape import SameShape
from tda_backend.studies.claims.selection import Selection
from tda_backend.studies.claims.unrolled import ErrorGrows, Matched, ProxyFollows
from tda_backend.studies.claims.wider import Wider
from tda_backend.studies.contract.claim import CLAIM_KINDS, ClaimKind

KINDS: tuple[ClaimKind[Any], ...] = (
    Greater(),
    Differs(),
    Ratio(),
    Level(),
    Wider(),
    Rule(),
    Regret(),
    Rising(),
    SameShape(),
    Flips(),
    Matched(),
    ErrorGrows(),
    ProxyFollows(),
    Selection(),
)
CLAIM_KINDS.update({kind.NAME: kind for kind in KINDS})
