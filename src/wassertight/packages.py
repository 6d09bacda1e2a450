"""Imports packages that are installed only where they are wanted, with an error that says how to get them."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from wassertight.errors import PackageError

_ALSO = {
    "timm": "timm torchvision",
    "robustbench": "robustbench timm torchvision",
    "PIL": "pillow",
    "autoattack": "git+https://github.com/fra31/auto-attack",  # not on PyPI
    "pkg_resources": "'setuptools<81'",
}


def optional_package(name: str, purpose: str) -> ModuleType:
    """Import a package or one of its modules when it is asked for.

    Args:
        name: what to import, for example "timm" or "onnx.reference".
        purpose: what it is needed for, for the message.

    Raises:
        PackageError: it is absent, or present and broken; names the package and the command that installs it.

    >>> optional_package("no_such_package", "this example")
    Traceback (most recent call last):
    ...
    wassertight.errors.PackageError: this example needs the package 'no_such_package': pip install no_such_package
    """
    package = name.partition(".")[0]
    command = f"pip install {_ALSO.get(package, package)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside other people's packages
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise PackageError(f"{purpose} needs the package {package!r}: {command}") from error
        missing = _ALSO.get(error.name or "", error.name)
        raise PackageError(
            f"{purpose} needs the package {package!r}, whose import fails for want of {error.name!r}: pip install {missing}"
        ) from error
    except Exception as error:  # a binary built for another torch raises whatever it likes
        raise PackageError(
            f"{purpose} needs the package {package!r}, which is installed but cannot be imported "
            f"({type(error).__name__}: {error}); install builds that belong together, from one index, with torch "
            f"{_torch()}: {command}"
        ) from error


def _torch() -> str:
    from importlib.metadata import version

    return version("torch")
