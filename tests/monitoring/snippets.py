"""The configurations that docs/fleet.md shows: fenced blocks that begin with `# file: NAME`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/fleet.md"
_BLOCK = re.compile(r"^```(\w+)\n(?:#|//) file: (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def blocks() -> dict[str, tuple[str, str]]:
    """Language and text by name."""
    return {name: (language, text) for language, name, text in _BLOCK.findall(PAGE.read_text())}


def configuration(name: str) -> str:
    return blocks()[name][1]
