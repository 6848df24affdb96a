"""Configurations: frozen dataclasses to and from JSON, tagged unions, dotted overrides, fingerprints."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from chiasm.errors import UserError

C = TypeVar("C")
TAG = "kind"
"""The key that says which class of a union a JSON object is."""


def to_dict(config: Any) -> Any:
    """A configuration as plain JSON values; every dataclass carries its class's name under "kind"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {TAG: type(config).__name__} | {f.name: to_dict(getattr(config, f.name)) for f in _fields(type(config))}
    if isinstance(config, (tuple, list)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def from_dict(kind: Any, data: Any, path: str = "") -> Any:
    """The value of type `kind` that `to_dict` wrote as `data`; UserError names the dotted path of what does not fit."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _from_union(args, data, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _from_object(kind, data, path)
    if origin is Literal:
        if data is None and "none" in args and None not in args:  # as `parse_value` reads it
            return "none"
        if data not in args:
            raise UserError(f"{path or 'value'} is {data!r}", f"It must be one of: {', '.join(map(str, args))}.")
        return data
    if origin is tuple:
        if not isinstance(data, (list, tuple)) or (args[-1] is not Ellipsis and len(data) != len(args)):
            raise UserError(f"{path or 'value'} is {data!r}", f"It must be a list that fits {kind}.")
        inner = [args[0]] * len(data) if args[-1] is Ellipsis else args
        return tuple(from_dict(t, item, f"{path}.{i}") for i, (t, item) in enumerate(zip(inner, data, strict=True)))
    if origin is dict:
        if not isinstance(data, dict):
            raise UserError(f"{path or 'value'} is {data!r}", f"It must be an object that fits {kind}.")
        return {key: from_dict(args[1], item, f"{path}.{key}") for key, item in data.items()}
    return _scalar(kind, data, path)


def merge(config: C, changes: dict[str, Any]) -> C:
    """`config` with the values of a nested dictionary, as a `--config` file has them, in place of its own.

    Where a change names another "kind" of a union, that kind's defaults replace the old values.
    """
    return from_dict(type(config), _merged(to_dict(config), changes))


def override(config: C, changes: dict[str, str]) -> C:
    """`config` with values replaced by dotted path, as `--set model.vision.width=192` does; values are JSON or text."""
    for path, text in changes.items():
        nested: Any = parse_value(text)
        for name in reversed(path.split(".")):
            nested = {name: nested}
        config = merge(config, nested)
    return config


def _merged(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(old, dict) or new.get(TAG, old.get(TAG)) != old.get(TAG):
        return new
    inner = {name: _merged(old.get(name), value) if isinstance(value, dict) else value for name, value in new.items()}
    return old | inner


def parse_value(text: str) -> Any:
    """The value that a user typed: JSON where it is JSON, "none" and the like as Python means them, else the text."""
    known = {"none": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change whenever the configuration (or any plain JSON value) does."""
    text = json.dumps(to_dict(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(config: Any, path: Path) -> None:
    """Write a configuration as JSON that people can read; a kill leaves the old file or the new one."""
    scratch = path.with_name(f"{path.name}.writing")
    scratch.write_text(json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)


def load(kind: type[C], path: Path) -> C:
    """Read what `save` wrote."""
    return from_dict(kind, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object; UserError where it is missing, damaged, or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON: {error}", "It may be cut off; restore it from a copy.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object", "Restore it from a copy.")
    return data


def _fields(kind: type) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if f.init]


def _from_object(kind: type, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{path or kind.__name__} is {data!r}", f"It must be an object: the fields of {kind.__name__}.")
    data = dict(data)
    tag = data.pop(TAG, kind.__name__)
    if tag != kind.__name__:
        raise UserError(f"{path or 'configuration'} is a {tag}", f"It must be a {kind.__name__}.")
    hints = get_type_hints(kind)
    names = [f.name for f in _fields(kind)]
    for name in data:
        if name not in names:
            raise _unknown(f"{path}.{name}".lstrip("."), dict.fromkeys(names))
    values = {name: from_dict(hints[name], item, f"{path}.{name}".lstrip(".")) for name, item in data.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path or kind.__name__}: {error}", "Change the value and try again.") from error


def _from_union(args: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in args:
        return None
    kinds = {a.__name__: a for a in args if dataclasses.is_dataclass(a) and isinstance(a, type)}
    if isinstance(data, dict) and kinds:
        tag = data.get(TAG, next(iter(kinds)) if len(kinds) == 1 else None)
        if tag not in kinds:
            raise UserError(f"{path or 'configuration'}.{TAG} is {tag!r}", f"It must be one of: {', '.join(kinds)}.")
        return _from_object(kinds[tag], data, path)
    problems = []
    for kind in args:
        if kind is type(None):
            continue
        try:
            return from_dict(kind, data, path)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is Any:
        return data
    if kind is Path and isinstance(data, str):
        return Path(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is float and isinstance(data, str):  # YAML takes 1e-05 for a word
        with contextlib.suppress(ValueError):
            return float(data)
    if kind is str and isinstance(data, (int, float)) and not isinstance(data, bool):
        return str(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise UserError(f"{path or 'value'} is {data!r}", f"It must be of type {getattr(kind, '__name__', kind)}.")
    return data


def _unknown(path: str, known: dict[str, Any]) -> UserError:
    names = [name for name in known if name != TAG]
    near = difflib.get_close_matches(path.rsplit(".", 1)[-1], names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return UserError(f"Unknown setting {path!r}", f"{hint}Known here: {', '.join(names) or 'nothing'}.")
