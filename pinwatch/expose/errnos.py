"""Error numbers as Linux names them: a recording may be read on a machine that names others."""

from __future__ import annotations

_MEANINGS = {
    1: "Operation not permitted",
    4: "Interrupted system call",
    5: "Input/output error",
    11: "Resource temporarily unavailable",
    12: "Cannot allocate memory",
    13: "Permission denied",
    14: "Bad address",
    16: "Device or resource busy",
    17: "File exists",
    19: "No such device",
    22: "Invalid argument",
    28: "No space left on device",
    75: "Value too large for defined data type",
    95: "Operation not supported",
    105: "No buffer space available",
    121: "Remote I/O error",
    133: "Memory page has hardware error",
}


def errno_meaning(number: int) -> str:
    """What strerror() says."""
    return _MEANINGS.get(number, f"error {number}")
