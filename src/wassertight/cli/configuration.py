"""Config files: option names and values in TOML, read before the command line and written for a run to be repeated."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, no_type_check

import typer

from wassertight.cli.declaring import declarations
from wassertight.errors import DataError, InputError, nearest
from wassertight.files import write_whole

_NOT_OF_THE_RUN = ("config", "save-config", "dry-run", "json", "quiet", "help")


@no_type_check  # typer hands over a context that is not of the class by which it finds this parameter
def read_configuration(context: typer.Context, path: Path | None) -> Path | None:
    """The callback of --config."""
    return path if path is None or context.resilient_parsing else _take_defaults(context, path)


def _take_defaults(context: Any, path: Path) -> Path:
    """Take a file's values as defaults of the command, so that the command line wins; called before other options.

    Raises:
        DataError: a file that is not readable TOML, is of another command, or has keys that are no options.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not a readable config file: {error}") from error
    command = content.pop("command", context.info_name)
    if command != context.info_name:
        raise DataError(f"{path} is of the command {command!r}, this is {context.info_name!r}")
    known = {name: parameter for parameter in context.command.params for name in _long(parameter.opts)}
    known = {name: parameter for name, parameter in known.items() if name not in ("config", "help")}
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            near = nearest(key, known)
            raise DataError(
                f"{path}: {command} has no option {key!r}; did you mean {near!r}? Keys are the long option names: "
                f"{', '.join(sorted(known))}"
            )
        several = bool(getattr(known[key], "multiple", False))
        if isinstance(value, dict if several else list):
            raise DataError(f"{path}: {key!r} takes one value, got {value!r}")
        texts = [str(item) for item in (value if isinstance(value, list) else [value])]
        found[known[key].name or key] = texts if several else texts[0]
    context.default_map = {**(context.default_map or {}), **found}
    return path


def keep_configuration(order: Any) -> None:
    """Write the options of an order where --save-config asks for it: all of them, so that the file repeats the run.

    Raises:
        InputError: another configuration is there; nothing is overwritten.
    """
    path: Path | None = order.save_config
    if path is None:
        return
    lines = [f"command = {json.dumps(order.command)}"]
    for item in fields(order):
        declared = declarations(type(order))[item.name]
        # typer keeps the first name of an annotated option as its default
        key = _long((declared.default, *(declared.param_decls or ())))[0]
        value = getattr(order, item.name)
        if value is not None and key not in _NOT_OF_THE_RUN:
            lines.append(f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}")
    text = "\n".join(lines) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} exists and holds something else; give --save-config another name, or delete it")
    write_whole(path, text.encode())


def _long(declared: Any) -> list[str]:
    """Long names of an option, without dashes: "--evaluate/--no-evaluate" is "evaluate"."""
    return [name.partition("/")[0].removeprefix("--") for name in declared if str(name).startswith("--")]
