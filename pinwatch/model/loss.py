"""What may be lost on the way from the kernel to a view."""

from __future__ import annotations

from enum import StrEnum


class LossKind(StrEnum):
    """Something that was not delivered or read; `words` says what it was, and so what is missing.

    The kernel side counts its own (enum pw_loss of bpf/pinwatch.h).
    """

    words: str

    RING_FULL = (
        "ring_full",
        "the daemon did not read fast enough, and a record was dropped: a failure or a slow pin "
        "that is counted nowhere else",
    )
    MISSED = (
        "missed",
        "the kernel did not run one of our programs, because it was running on that CPU already "
        "(of kprobes counted since 6.7), or because too many threads were in that function",
    )
    FRAMES_FULL = "frames_full", "more than 2048 threads were pinning at once"
    FAILURES_FULL = (
        "failures_full",
        "more than 512 threads were failing at once: no evidence for that one",
    )
    TOTALS_FULL = (
        "totals_full",
        "more than 16384 processes have pinned and not yet been cleared away",
    )
    FRAME_STALE = (
        "frame_stale",
        "the end of an operation was never seen, and so how it ended (a missed return probe)",
    )
    READ_FAULT = "read_fault", "kernel or user memory could not be read"
    HINTS_FULL = (
        "hints_full",
        "a process gave more than 64 hints on its memory: the rest is not told",
    )
    UNDECODABLE = "undecodable", "a record of unknown kind or length"
    VM_EVIDENCE = (
        "vm_evidence",
        "what may name a VM could not be read: a file of libvirt's, or a command line within 0.2 "
        "s, because a pin holds the lock of that process's memory",
    )
    PLACEMENT = "placement", "a look at a VM's memory did not come back in time"
    HISTORY = "history", "an event that the history does not have, because its disk refused it"
    RECORDING = "recording", "a line that a recording does not have, or a recording that broke off"

    def __new__(cls, value: str, words: str) -> LossKind:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member
