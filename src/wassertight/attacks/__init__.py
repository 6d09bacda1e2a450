"""Attacks: upper bounds on worst-case accuracy, every result audited."""

from wassertight.attacks.base import Attack, AttackResult, Found, Problem, conclude
from wassertight.attacks.fgsm import FGSM
from wassertight.attacks.minimum_norm import MinimumNorm
from wassertight.attacks.pgd import PGD
from wassertight.attacks.wda_plus import WDAPlusPlus

__all__ = ["FGSM", "PGD", "Attack", "AttackResult", "Found", "MinimumNorm", "Problem", "WDAPlusPlus", "conclude"]
