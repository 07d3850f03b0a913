"""Long-term pins: who asks for them."""

from __future__ import annotations

from enum import StrEnum


class PinSource(StrEnum):
    """The subsystem that asked for the pin; `words` names the operation."""

    words: str

    VFIO_TYPE1 = "vfio_type1", "VFIO map"
    OTHER = "other", "long-term pin"

    def __new__(cls, value: str, words: str) -> PinSource:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member
