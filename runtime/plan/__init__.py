"""Which format each layer gets: fused units, candidates, profiles, the exact allocation."""

from .allocate import Plan, Step, allocate
from .budget import BudgetTooSmall, capacity, read_bpw
from .candidates import CORRECTIONS, Stated, candidate_texts, default_promotions, stated
from .profile import Choice, UnitProfile, profile_unit, quantize_matrix
from .units import Unit, units_of

__all__ = [
    "CORRECTIONS",
    "BudgetTooSmall",
    "Choice",
    "Plan",
    "Stated",
    "Step",
    "Unit",
    "UnitProfile",
    "allocate",
    "candidate_texts",
    "capacity",
    "default_promotions",
    "profile_unit",
    "quantize_matrix",
    "read_bpw",
    "stated",
    "units_of",
]
