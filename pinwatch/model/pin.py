"""Long-term pins: who asks for them, and what they wait for."""

from __future__ import annotations

from enum import StrEnum


class PinSource(StrEnum):
    """The subsystem that asked for the pin; `words` names the operation."""

    words: str

    VFIO_TYPE1 = "vfio_type1", "VFIO map"
    IOMMUFD = "iommufd", "iommufd map"
    IO_URING = "io_uring", "io_uring buffer registration"
    RDMA = "rdma", "RDMA memory registration"
    AF_XDP = "af_xdp", "AF_XDP memory registration"
    VHOST_VDPA = "vhost_vdpa", "vhost-vdpa map"
    VDUSE = "vduse", "VDUSE memory registration"
    UDMABUF = "udmabuf", "udmabuf creation"
    SEV = "sev", "SEV region registration"
    OTHER = "other", "long-term pin"

    def __new__(cls, value: str, words: str) -> PinSource:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


class Wait(StrEnum):
    """Where the time of a pin goes; `words` completes "it waited ..."."""

    words: str

    LRU_DRAIN = "lru_drain", "for all CPUs to drain their LRU batches"
    WRITEBACK = "writeback", "for writeback"
    FOLIO_LOCK = "folio_lock", "for locked folios"
    COMPACTION = "compaction", "for compaction to find a destination"

    def __new__(cls, value: str, words: str) -> Wait:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member
