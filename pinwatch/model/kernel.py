"""What is known of the running kernel: numbers needed to read its records, and its hooks.

Facts come from BTF and kallsyms (host/probe.py) and travel with a recording, so that a record made
on one kernel is read the same way on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """How a hook is attached, cheapest first."""

    RAW_TRACEPOINT = "raw_tracepoint"
    FENTRY = "fentry"
    KPROBE = "kprobe"
    NETLINK = "netlink"  # not a probe: the kernel tells it by itself
    PROCFS = "procfs"  # not a probe: files that are read now and then
    WAITING = "waiting"  # for a module to be loaded
    OFF = "off"


CmaAreas = dict[str, tuple[tuple[int, int], ...]]  # name -> ranges of frames: start, end


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """Values that differ between kernels and that decoding needs; absent means unknown."""

    release: str
    page_flags: dict[str, int] = field(default_factory=dict)  # PG_* name -> bit number
    zones: dict[int, str] = field(default_factory=dict)  # enum zone_type -> "Movable"
    migratetypes: dict[int, str] = field(default_factory=dict)  # value -> "CMA"
    isolate_bit: int | None = None  # v6.17: isolation is a bit of its own in the pageblock
    zones_shift: int | None = None  # of folio->flags
    zones_mask: int = 0
    nodes_shift: int | None = None
    hugetlb_page_type: int | None = None  # PGTY_hugetlb (v6.11) or HUGETLB_PAGE_DTOR
    page_type_in_top_byte: bool = False
    hugetlb_cache_refs_per_page: bool = True  # 6.1 counts one for each folio
    a_ops: dict[int, str] = field(default_factory=dict)  # address -> "shmem_aops"
    refusing_ops: tuple[int, ...] = ()  # addresses of migrate operations that always refuse
    lru_batches: tuple[str, ...] = ()  # names of the per-CPU batches, in the order of searching
    migrate_reasons: dict[int, str] = field(default_factory=dict)  # value -> "compaction"
    cma_areas: CmaAreas | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookState:
    """One hook as it is attached now, or why not."""

    hook: str
    symbol: str
    mode: Mode
    reason: str = ""  # why it is off, or may not see all
    sees: str = ""  # what is not seen while it is off

    @property
    def attached(self) -> bool:
        return self.mode not in (Mode.OFF, Mode.WAITING)
