"""Attacks of other libraries inside our knapsack, and ours inside theirs."""

from wassertight.attacks.foreign.attack import Foreign
from wassertight.attacks.foreign.handing import as_foolbox, as_torchattacks

__all__ = ["Foreign", "as_foolbox", "as_torchattacks"]
