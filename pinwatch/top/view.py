"""What the screen of `pinwatch top` is about, and what each key makes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

Document = Mapping[str, Any]  # docs/state.schema.json
Row = Mapping[str, Any]  # one of its VMs
_VERDICTS = {"will_fail": 2, "at_risk": 1, "fine": 0}


class Sort(StrEnum):
    """What VMs are ordered by, the most first."""

    FAILED = "failed"
    RISK = "risk"
    PINNED = "pinned"
    MOVED = "moved"
    NAME = "name"


class Screen(StrEnum):
    LIST = "list"
    DETAIL = "detail"
    HELP = "help"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that keys have set."""

    sort: Sort = Sort.FAILED
    needle: str = ""  # VMs whose name, alias or uuid has it
    typing: bool = False  # keys go to the needle
    selected: str = ""  # name of a VM; empty: the first
    screen: Screen = Screen.LIST
    paused: bool = False
    quit: bool = False


def press(view: View, key: str, document: Document) -> View:
    """The view after a key: a character, or one of up, down, enter, escape, backspace."""
    if view.typing:
        return _type(view, key)
    if key == "q" and view.screen is Screen.LIST:
        return replace(view, quit=True)
    if view.screen is not Screen.LIST and key in ("q", "escape", "enter", "?", "h"):
        return replace(view, screen=Screen.LIST)
    if key in _KEYS:
        return replace(view, **_KEYS[key])
    if key in ("up", "k", "down", "j"):
        return _move(view, -1 if key in ("up", "k") else 1, document)
    if key == "s":
        sorts = tuple(Sort)
        return replace(view, sort=sorts[(sorts.index(view.sort) + 1) % len(sorts)])
    return replace(view, paused=not view.paused) if key in ("p", " ") else view


_KEYS: dict[str, dict[str, Any]] = {
    "/": {"typing": True, "needle": ""},
    "escape": {"needle": ""},
    "enter": {"screen": Screen.DETAIL},
    "?": {"screen": Screen.HELP},
    "h": {"screen": Screen.HELP},
}


def _type(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, typing=False)
    if key == "escape":
        return replace(view, typing=False, needle="")
    if key == "backspace":
        return replace(view, needle=view.needle[:-1])
    return replace(view, needle=view.needle + key) if len(key) == 1 and key.isprintable() else view


def _move(view: View, by: int, document: Document) -> View:
    names = [row["name"] for row in rows(view, document)]
    if not names:
        return view
    at = names.index(view.selected) if view.selected in names else 0
    return replace(view, selected=names[min(max(at + by, 0), len(names) - 1)])


def rows(view: View, document: Document) -> list[Row]:
    """The VMs to show, in order."""
    needle = view.needle.casefold()
    found = [
        row for row in document["vms"]
        if needle in f"{row['name']} {row['alias']} {row['uuid']}".casefold()
    ]  # fmt: skip
    return sorted(found, key=lambda row: (-weight(view.sort, row), row["name"]))


def weight(sort: Sort, row: Row) -> float:
    """By what a VM is before others."""
    if sort is Sort.RISK:
        return _VERDICTS[row["forecast"]["verdict"]] if row["forecast"] else -1
    if sort is Sort.NAME:
        return 0
    keys = {Sort.FAILED: "failed", Sort.PINNED: "pinned_bytes", Sort.MOVED: "migrated_bytes"}
    return float(row[keys[sort]])


def chosen(view: View, document: Document) -> Row | None:
    """The selected VM, else the first that is shown."""
    shown = rows(view, document)
    return next((row for row in shown if row["name"] == view.selected), shown[0] if shown else None)


def moving(old: Document | None, new: Document) -> dict[str, float]:
    """Bytes a second that pins moved of each VM between two documents. None after a restart of the
    daemon, whose counters begin again."""
    if old is None or new["time_s"] <= old["time_s"]:
        return {}
    before = {row["name"]: row["migrated_bytes"] for row in old["vms"]}
    took = new["time_s"] - old["time_s"]
    return {
        row["name"]: (row["migrated_bytes"] - before[row["name"]]) / took
        for row in new["vms"]
        if row["migrated_bytes"] > before.get(row["name"], row["migrated_bytes"])
    }
