"""Lipschitz constants: proved slopes of a network's logit differences and losses, global and around every sample."""
