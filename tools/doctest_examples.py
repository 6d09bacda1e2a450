"""A griffe extension for the docs: doctests in docstrings become an examples section, shown as code."""

from __future__ import annotations

from typing import Any

import griffe


class DoctestExamples(griffe.Extension):
    """Puts `Examples:` before the first prompt at the margin, which the Google style asks for and our docstrings leave out."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that was read."""
        if obj.docstring is None or ">>> " not in obj.docstring.value or "Examples:" in obj.docstring.value:
            return
        lines = obj.docstring.value.splitlines()
        first = next((row for row, line in enumerate(lines) if line.startswith(">>> ")), None)
        if first is not None:
            indented = [f"    {line}" if line else line for line in lines[first:]]
            obj.docstring.value = "\n".join([*lines[:first], "Examples:", *indented])
