"""Settings of an attack that other parts of a run decide: its passes by a preset, the noise of a smoothed classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wassertight.certificates.smoothing import Smoothing
from wassertight.evaluation.catalogue import attack_methods
from wassertight.transport.flow_noise import GaussianFlow
from wassertight.types import InputError

PRESETS = ("quick", "strong", "auto")
"""About 100 passes a sample; about 2,000; quick first, then strong where the bracket is open and matters."""


def with_preset(attack: Any, options: Mapping[str, Any] | None, preset: str | None) -> Mapping[str, Any] | None:
    """The attack's settings with the passes of a preset; "auto" begins with those of "quick".

    >>> with_preset("wda++", None, "auto")
    {'passes': 'quick'}
    """
    if preset is None:
        return options
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
    if attack not in ("wda++", "min-norm") or "passes" in (options or {}):
        raise InputError(
            f"a preset sets the passes of 'wda++' or 'min-norm'; got attack {attack!r}, settings {options}"
        )
    return {**(options or {}), "passes": "quick" if preset == "auto" else preset}


def with_noise(attack: Any, options: Mapping[str, Any] | None, certificate: Any) -> Mapping[str, Any] | None:
    """The settings of an attack on a smoothed classifier, with the noise that the certificate smooths with.

    Without a certificate the setting `sigma` asks for Gaussian flow noise.

    >>> with_noise("smoothed-frank-wolfe", {"sigma": 0.01, "steps": 10}, None)
    {'steps': 10, 'noise': GaussianFlow(sigma=0.01, weighted=True)}
    """
    smoothed = {method.name for method in attack_methods() if method.smoothed}
    if not isinstance(attack, str) or attack not in smoothed or "noise" in (options or {}):
        return options
    rest = dict(options or {})
    sigma = rest.pop("sigma", None)
    if isinstance(certificate, Smoothing):
        if sigma is not None:
            raise InputError("the attack's noise is that of the certificate; give sigma to the certificate only")
        return {**rest, "noise": certificate.noise}
    if sigma is None:
        raise InputError(
            f"attack {attack!r} is for smoothed classifiers: give sigma (noise in shares of the image's light), a "
            "noise, or a certificate that smooths with random noise, for example 'wasserstein-smoothing'"
        )
    return {**rest, "noise": GaussianFlow(sigma=sigma)}
