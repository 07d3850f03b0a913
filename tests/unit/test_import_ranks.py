"""A module imports lower ranks only, and the stages do not know each other (docs/design.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "pinwatch"

RANKS = {
    "errors": 0, "model": 0,
    "settings": 1, "abi": 1, "plain": 1,
    "decode": 2, "attribute": 2, "classify": 2, "aggregate": 2, "expose": 2, "recording": 2,
    "forecast": 2, "sampling": 2,
    "host": 3,
    "pipeline": 4,
    "daemon": 5, "serve": 5, "web": 5, "history": 5, "journal": 5, "commands": 5,
    "playback": 5, "recorder": 5, "taps": 5, "top": 5,
    "cli": 6, "__main__": 6,
    "__init__": 0,
}  # fmt: skip

# What one stage may still take from another, each with its reason.
ALLOWED = {
    ("expose", "aggregate"),  # errno_name(): the words of a label
}
EFFECTS = {"os", "subprocess", "socket", "ctypes", "time", "threading", "select", "signal"}
MAY_HAVE_EFFECTS = {
    "host", "daemon", "serve", "web", "history", "journal", "commands", "recorder", "taps", "top",
    "cli", "__main__",
}  # fmt: skip
# ctypes only describes bytes there, nothing is called
PURE_USE = {("abi", "ctypes"), ("decode", "ctypes"), ("recording", "ctypes")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


def test_every_package_has_a_rank() -> None:
    assert {unit(path) for path in modules()} == set(RANKS)


def test_imports_go_down_only() -> None:
    wrong = []
    for path in modules():
        ours = unit(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "pinwatch" or len(parts) < 2 or parts[1] not in RANKS:
                continue
            theirs = parts[1]
            sideways = RANKS[theirs] == RANKS[ours] == 2 and theirs != ours
            if RANKS[theirs] > RANKS[ours] or (sideways and (ours, theirs) not in ALLOWED):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_effects_stay_at_the_edge() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        for name in imports(path)
        if name in EFFECTS
        and unit(path) not in MAY_HAVE_EFFECTS
        and (unit(path), name) not in PURE_USE
    ]
    assert not wrong


def test_only_the_loader_imports_bcc() -> None:
    users = {str(path.relative_to(PACKAGE)) for path in modules() if "bcc" in set(imports(path))}
    assert users == {"host/loader.py"}
