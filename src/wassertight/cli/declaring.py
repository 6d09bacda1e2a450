"""From a dataclass to a command: its fields are the options, each declared once, and the body gets it filled."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_type_hints

RUN, METHODS, SMOOTHING, CLAIM, TRAINING, EVALUATION, OUTPUT = (
    "Run", "Methods", "Smoothing", "Claim", "Training", "Evaluation", "Output"
)  # fmt: skip
_PANELS = (None, RUN, METHODS, SMOOTHING, CLAIM, TRAINING, EVALUATION, OUTPUT)

Order = TypeVar("Order")


def declarations(order: type[Any]) -> dict[str, Any]:
    """The typer declaration of every option of a dataclass, by field name."""
    hints = get_type_hints(order, include_extras=True)
    return {item.name: get_args(hints[item.name])[1] for item in fields(order)}


def from_options(body: Callable[[Order], int]) -> Callable[..., int]:
    """A function for `app.command()` whose options are the fields of the dataclass that the body takes.

    Options are shown panel by panel, in the order above.
    """
    (order,) = (hint for name, hint in get_type_hints(body).items() if name != "return")
    hints = get_type_hints(order, include_extras=True)
    panels = {name: _PANELS.index(one.rich_help_panel) for name, one in declarations(order).items()}
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if item.default is MISSING else item.default,
            annotation=hints[item.name],
        )
        for item in sorted(fields(order), key=lambda item: panels[item.name])
    ]

    @functools.wraps(body)
    def command(**given: Any) -> int:
        return body(order(**given))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
