"""From a function's signature to its command line, through jsonargparse."""

from __future__ import annotations

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints


def call(function: Callable[..., int | None], args: Sequence[str], program: str) -> int | None:
    """Parse the arguments as the signature says, and call; a wrong argument ends the program with exit code 2."""
    from jsonargparse import ArgumentParser

    summary, described = _docstring(function)
    parser = ArgumentParser(prog=program, description=summary, formatter_class=RawDescriptionHelpFormatter)
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        _add(parser, name, parameter, hints[name], described.get(name, ""))
    values = parser.parse_args(list(args)).as_dict()
    given = {name: values[_word(name)] for name in hints if name != "return"}
    return function(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def _add(parser: Any, name: str, parameter: inspect.Parameter, hint: Any, described: str) -> None:
    required = parameter.default is inspect.Parameter.empty
    positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    flag = name if positional else "--" + _word(name).replace("_", "-")
    default = parameter.default
    told = "" if required or default in (None, False, "", ()) else f" (default: {default})"
    options: dict[str, Any] = {"help": (described + told).replace("%", "%%")}
    if get_origin(hint) is not Literal and hint is not bool and not positional:
        options["metavar"] = _word(name).split("_")[-1].upper()
    if get_origin(hint) is tuple:  # several values: words side by side, as shells give them
        each = get_args(hint)[0]
        choices = {"choices": get_args(each)} if get_origin(each) is Literal else {"type": each}
        options |= {"nargs": "+" if required else "*"} | choices
        options |= {} if required else {"default": list(parameter.default)}
        if not positional:
            options["action"] = "extend"
    elif hint is bool:
        options |= {"action": "store_true"}
    else:
        options |= {"type": hint}
        options |= {} if required else {"default": parameter.default}
        if positional and not required:
            options["nargs"] = "?"
    if required and not positional:
        options["required"] = True
    parser.add_argument(flag, **options)


def _word(name: str) -> str:
    """The option of a parameter, which has a trailing underscore where Python keeps the word for itself."""
    return name.rstrip("_")


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The text before `Args:`, and what stands there of each parameter."""
    summary, _, listed = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    described: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        head, colon, text = line.strip().partition(": ")
        if colon and head.isidentifier() and line.startswith("    ") and not line.startswith("     "):
            name, described[head] = head, text
        elif name:
            described[name] += " " + line.strip()
    return summary.strip(), described
