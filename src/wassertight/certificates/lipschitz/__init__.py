"""Lipschitz constants: proved slopes of a network's logit differences and losses, global and around every sample."""

from wassertight.certificates.lipschitz.audit import ConeAudit, cone_audit
from wassertight.certificates.lipschitz.constants import LipschitzBounds, lipschitz_constants, local_lipschitz
from wassertight.certificates.lipschitz.jacobians import jacobian_bounds
from wassertight.certificates.lipschitz.table import LipschitzRow, lipschitz_table

__all__ = [
    "ConeAudit",
    "LipschitzBounds",
    "LipschitzRow",
    "cone_audit",
    "jacobian_bounds",
    "lipschitz_constants",
    "lipschitz_table",
    "local_lipschitz",
]
