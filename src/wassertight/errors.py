"""Every error this library raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WassertightError(Exception):
    """Base of every error this library raises on purpose."""


class InputError(WassertightError, ValueError):
    """Inputs, labels, radii or settings that cannot be used; says what was got and what is allowed."""


class ThreatError(InputError):
    """A threat string or threat parameter that is not known, or an oracle the threat does not offer."""


class ModelError(WassertightError, ValueError):
    """The model cannot be loaded, or returned something that is not one row of finite logits a sample."""


class PackageError(WassertightError, ImportError):
    """An optional package that is absent or broken; names it and the command that installs it."""


class DataError(InputError):
    """A data file that is missing, truncated or not of the documented form."""


class RunDirectoryError(WassertightError):
    """A run directory that is unreadable or belongs to another configuration."""


class UnsupportedLayerError(WassertightError, NotImplementedError):
    """A certificate met an operation it cannot bound; names the operation and its place."""


class AuditError(WassertightError):
    """A result failed its audit: the worst bug there is."""


class BoxNotice(UserWarning):
    """Inputs were outside the box by no more than the tolerance and have been clipped."""


class ModelNotice(UserWarning):
    """A model from elsewhere was loaded, and something about it had to be assumed; says what."""


class TrainingError(WassertightError):
    """Training cannot go on: a diverging loss, a gradient that is not finite; says what to change."""


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """The known names that a mistyped one is most like, best first, separated by commas.

    >>> nearest("wda+", ["pgd", "wda++"])
    'wda++'
    """
    return ", ".join(difflib.get_close_matches(name, list(known), n=count, cutoff=0.0))
