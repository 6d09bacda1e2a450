"""Attacks agree with foolbox and torchattacks on the embedded networks (skipped where those are not installed)."""
