"""Text from outside made fit for a label, a terminal and a log line."""

from __future__ import annotations

MAX_NAME = 128


def printable(text: str, limit: int = MAX_NAME) -> str:
    """Control, format and line-separator characters escaped as \\uXXXX, cut at `limit`.

    A cut name ends with an ellipsis, so that it cannot pass for a shorter one.
    """
    escaped = "".join(c if c.isprintable() else _escape(c) for c in text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def vm_name(text: str) -> str:
    """A VM's name as label value. "~" in front is ours alone (~host), so it is escaped."""
    name = printable(text)
    return "\\" + name if name.startswith("~") else name
