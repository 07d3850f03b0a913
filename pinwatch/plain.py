"""Frozen values to what JSON can hold, and back by their types.

Takes dataclasses of dataclasses, enums of text, tuples, frozensets and None; pure.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Value = TypeVar("Value")


def to_plain(value: Any) -> Any:
    """The same as dicts, lists, text and numbers; sets in order."""
    if isinstance(value, frozenset):
        return sorted(map(to_plain, value))
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    return str(value) if isinstance(value, StrEnum) else value


def from_plain(kind: type[Value], plain: Any) -> Value:
    """A value of that type. ValueError, TypeError or KeyError when it is none."""
    return cast(Value, _from(kind, plain))


def _from(kind: Any, plain: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if plain is None else _from(_but_none(kind), plain)
    if origin is frozenset:
        return frozenset(_from(get_args(kind)[0], one) for one in plain)
    if origin is tuple:
        return _tuple(get_args(kind), plain)
    if isinstance(kind, type) and is_dataclass(kind):
        types_ = _types(kind)
        return kind(**{name: _from(types_[name], value) for name, value in plain.items()})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind._value2member_map_[plain]
    return plain


def _but_none(union: Any) -> Any:
    (kind,) = (one for one in get_args(union) if one is not type(None))
    return kind


def _tuple(kinds: tuple[Any, ...], plain: list[Any]) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_from(kinds[0], one) for one in plain)
    return tuple(_from(kind, one) for kind, one in zip(kinds, plain, strict=True))


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
