"""Bytes from the ring buffer to events.

Takes a record and the facts of the kernel that made it; gives an Event, or DecodeError. It names
zones, kinds of memory and flags, and concludes nothing.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Callable, Iterator
from typing import TypeVar

from pinwatch.abi import layout
from pinwatch.model.event import (
    Activity,
    Event,
    FolioFacts,
    MappingKind,
    Memlock,
    ModuleLoaded,
    PinEnded,
    RefusedVma,
    Seen,
    Task,
    TaskSeen,
)
from pinwatch.model.hint import Hint, HintGiven
from pinwatch.model.holder import Holder
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.sample import OpenPin, TaskKey

PAGE_SIZE = 4096
CAP_IPC_LOCK = 14  # include/uapi/linux/capability.h
PAGE_MAPPING_ANON = 1
PAGE_MAPPING_KSM = 3
TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
HUGETLBFS_MAGIC = 0x958458F6
PAGEBLOCK_UNKNOWN = 0xFFFFFFFF

_SEEN = {
    layout.Seen.MOVE: Seen.MOVE,
    layout.Seen.LOCK: Seen.LOCK,
    layout.Seen.SPLIT: Seen.SPLIT,
    layout.Seen.LEFT: Seen.LEFT,
}
_KINDS_BY_OPS = {
    "shmem_aops": MappingKind.SHMEM,
    "hugetlbfs_aops": MappingKind.HUGETLB,
    "secretmem_aops": MappingKind.SECRETMEM,
    "swap_aops": MappingKind.ANON,
}
_KINDS_BY_MAGIC = {TMPFS_MAGIC: MappingKind.SHMEM, HUGETLBFS_MAGIC: MappingKind.HUGETLB}

_HOLDERS: dict[int, Holder] = {
    **{h: Holder[h.name] for h in layout.Holder if h.name in Holder.__members__},
    layout.Holder.PIN_BEFORE: Holder.PIN,
}
_WAITS: dict[int, Wait] = {w: Wait[w.name] for w in layout.Wait if w is not layout.Wait.COUNT}

_INTRODUCING: dict[int, type[layout.TaskRecord | layout.PinRecord]] = {
    layout.Record.TASK: layout.TaskRecord,
    layout.Record.PIN_FAILED: layout.PinRecord,
    layout.Record.PIN_SLOW: layout.PinRecord,
}

_S = TypeVar("_S", bound=ct.Structure)


class DecodeError(ValueError):
    """A record that this version of pinwatch does not understand."""


def decode(data: bytes, kernel: KernelFacts) -> Event:
    """One record from the ring buffer. DecodeError when its kind or length is unknown."""
    head = _parse(layout.Head, data[: ct.sizeof(layout.Head)])
    decoder = _DECODERS.get(head.kind)
    if decoder is None:
        raise DecodeError(f"unknown record kind {head.kind}")
    return decoder(data, kernel)


def _parse(kind: type[_S], data: bytes) -> _S:
    if len(data) < ct.sizeof(kind):
        raise DecodeError(f"{kind.__name__} of {len(data)} bytes, expected {ct.sizeof(kind)}")
    return kind.from_buffer_copy(data)


def text(raw: bytes) -> str:
    """Bytes that anybody may have chosen, as text; invalid UTF-8 is spelled out."""
    return raw.decode("utf-8", "backslashreplace")


def comm(raw: bytes) -> str:
    """The name that a process gave itself, fit for a terminal and a log line."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text(raw))
    return "".join(escaped)


def _task(head: layout.Head) -> Task:
    return Task(
        key=TaskKey(tgid=head.tgid, start_ns=head.task_start_ns),
        tid=head.tid,
        uid=head.uid,
        comm=comm(head.comm),
        cgroup_id=head.cgroup_id,
    )


def _cmdline(raw: layout.Cmdline) -> tuple[str, ...]:
    words = bytes(raw.text)[: raw.len].split(b"\0")
    if words and not words[-1]:
        words.pop()  # the last argument ends with a NUL, too
    return tuple(map(text, words))


def _task_seen(data: bytes, _kernel: KernelFacts) -> TaskSeen:
    record = _parse(layout.TaskRecord, data)
    return TaskSeen(
        time_ns=record.head.time_ns, task=_task(record.head), cmdline=_cmdline(record.cmdline)
    )


def _module_loaded(data: bytes, _kernel: KernelFacts) -> ModuleLoaded:
    record = _parse(layout.ModuleRecord, data)
    return ModuleLoaded(time_ns=record.head.time_ns, name=text(record.name))


_ADVICE = {
    12: Hint.MERGEABLE, 14: Hint.HUGEPAGE, 15: Hint.NOHUGEPAGE, 20: Hint.COLD, 21: Hint.PAGEOUT,
    22: Hint.POPULATE_READ, 23: Hint.POPULATE_WRITE, 25: Hint.COLLAPSE,
}  # fmt: skip
# uapi/asm-generic/mman.h, the one that says most first
_MAP_FLAGS = ((0x8000, Hint.MAP_POPULATE), (0x2000, Hint.MAP_LOCKED), (0x40000, Hint.MAP_HUGETLB))
_MLOCK_ONFAULT = 1
_MFD_HUGE_SHIFT, _GIGANTIC = 26, 30  # flags of memfd_create(2) have log2 of the size there
_CALLS: dict[int, Hint] = {
    layout.Call.MLOCKALL: Hint.MLOCKALL,
    layout.Call.MBIND: Hint.MBIND,
    layout.Call.SET_MEMPOLICY: Hint.SET_MEMPOLICY,
}


def _hint(call: int, value: int) -> Hint:
    match call:
        case layout.Call.MADVISE:
            return _ADVICE.get(value, Hint.UNKNOWN_ADVICE)
        case layout.Call.PRCTL:
            return Hint.THP_DISABLE if value else Hint.THP_ENABLE
        case layout.Call.MLOCK:
            return Hint.MLOCK_ONFAULT if value & _MLOCK_ONFAULT else Hint.MLOCK
        case layout.Call.MEMFD_CREATE:
            gigantic = value >> _MFD_HUGE_SHIFT == _GIGANTIC
            return Hint.MEMFD_HUGETLB_1G if gigantic else Hint.MEMFD_HUGETLB
        case layout.Call.MMAP:
            found = next((hint for flag, hint in _MAP_FLAGS if value & flag), None)
        case _:
            found = _CALLS.get(call)
    if found is None:
        raise DecodeError(f"unknown hint {call}, {value:#x}")
    return found


def _hint_given(data: bytes, _kernel: KernelFacts) -> HintGiven:
    record = _parse(layout.HintRecord, data)
    return HintGiven(
        time_ns=record.head.time_ns,
        task=_task(record.head).key,
        hint=_hint(record.call, record.value),
        value=record.value,
        address=record.address,
        length_bytes=record.length,
        errno=max(0, -record.rc),
        resident_bytes=record.resident_pages * PAGE_SIZE,
        pinned_bytes=record.pinned_pages * PAGE_SIZE,
    )


def introduction(data: bytes) -> tuple[TaskKey, tuple[str, ...]] | None:
    """The process that a raw record is about, with its command line, so that more can be found of
    it before the record is decoded; None when the record is about none."""
    head = _parse(layout.Head, data[: ct.sizeof(layout.Head)])
    kind = _INTRODUCING.get(head.kind)
    if kind is None:
        return None
    return _task(head).key, _cmdline(_parse(kind, data).cmdline)


def _stack(record: layout.PinRecord) -> tuple[int, ...]:
    return tuple(address for address in record.stack if address)


def open_pin(value: bytes) -> OpenPin:
    """An entry of the map of open operations."""
    frame = layout.Frame.from_buffer_copy(value)
    return OpenPin(
        task=TaskKey(tgid=frame.tgid, start_ns=frame.task_start_ns),
        source=layout.SOURCE_NAMES.get(frame.source, PinSource.OTHER),
        start_ns=frame.start_ns,
        vaddr=frame.vaddr,
        length_bytes=frame.length,
        loops=frame.gup_loops if frame.gup_open else 0,
        rounds=frame.gup_rounds,
        wait=_WAITS.get(frame.waiting - 1),
    )


def _pin_ended(data: bytes, kernel: KernelFacts) -> PinEnded:
    record = _parse(layout.PinRecord, data)
    frame, failure, head = record.frame, record.failure, record.head
    return PinEnded(
        time_ns=head.time_ns,
        task=_task(head),
        cmdline=_cmdline(record.cmdline),
        source=layout.SOURCE_NAMES.get(frame.source, PinSource.OTHER),
        errno=max(-record.rc, 0),
        gup_errno=-frame.gup_rc,
        gup_short=frame.gup_short,
        duration_ns=head.time_ns - frame.start_ns,
        vaddr=frame.vaddr,
        iova=frame.iova,
        length_bytes=frame.length,
        pinned_pages=frame.pinned,
        gup_calls=frame.gup_calls,
        rounds=frame.rounds,
        migrated_pages=frame.migrated,
        failed_pages=frame.migrate_failed,
        thp_failed=frame.thp_failed,
        thp_split=frame.thp_split,
        dst_failed=failure.dst_failed,
        dst_order=failure.dst_order,
        split_failed=failure.split_failed,
        split_ok=failure.split_ok,
        split_errno=-failure.split_rc,
        loops=frame.max_loops,
        last_loops=frame.gup_loops,
        last_vma_flags=frame.vma_flags,
        isolate_failed=frame.isolate_failed,
        in_place=frame.in_place,
        alloc_failed=failure.alloc_failed,
        memcg_oom=failure.memcg_oom,
        waits_ns={name: frame.wait_ns[wait] for wait, name in _WAITS.items()},
        vma=_refused_vma(failure.vma, kernel),
        activities=tuple(_activities(record.windows)),
        stack=_stack(record),
        folios=tuple(_folio(f, failure, kernel) for f in failure.folios[: failure.nr_folios]),
        folios_dropped=failure.folios_dropped,
        memlock=_memlock(record.memlock),
    )


def _refused_vma(raw: layout.Vma, kernel: KernelFacts) -> RefusedVma | None:
    if not raw.rc:
        return None
    return RefusedVma(
        start=raw.start,
        end=raw.end,
        flags=raw.flags,
        kind=file_kind(raw.a_ops, raw.s_magic, kernel) if raw.a_ops else MappingKind.ANON,
        s_magic=raw.s_magic,
        errno=-raw.rc,
    )


def _activities(windows: ct.Array[layout.Window]) -> Iterator[Activity]:
    for number, raw in enumerate(windows):
        holder = _HOLDERS.get(number)
        if holder is None or not raw.start_ns:
            continue
        yield Activity(
            holder=holder,
            start_ns=raw.start_ns,
            end_ns=raw.end_ns or None,
            tgid=raw.tgid,
            tid=raw.tid,
            comm=comm(raw.comm),
            first_pfn=raw.first_pfn,
            last_pfn=raw.last_pfn,
            parent_tgid=raw.parent_tgid,
            parent_comm=comm(raw.parent_comm),
            value=raw.value,
        )


def _culprit(raw: layout.Culprit) -> Activity | None:
    holder = _HOLDERS.get(raw.holder)
    if holder is None or holder is Holder.NONE:
        return None
    return Activity(
        holder=holder,
        start_ns=raw.start_ns,
        end_ns=None,
        tgid=raw.tgid,
        tid=raw.tid,
        comm=comm(raw.comm),
    )


def _memlock(raw: layout.Memlock) -> Memlock:
    return Memlock(
        limit_pages=raw.limit_bytes // PAGE_SIZE,
        locked_pages=raw.locked_pages,
        pinned_pages=raw.pinned_pages,
        user_pages=raw.user_pages,
        cap_ipc_lock=bool(raw.cap_effective >> CAP_IPC_LOCK & 1),
    )


def _folio(raw: layout.Folio, failure: layout.Failure, kernel: KernelFacts) -> FolioFacts:
    kind = mapping_kind(raw, kernel)
    swapcache = _flag(raw, kernel, "PG_swapcache") and _flag(raw, kernel, "PG_swapbacked")
    return FolioFacts(
        pfn=raw.pfn or None,
        order=raw.order,
        node=None if kernel.nodes_shift is None else raw.flags >> (64 - kernel.nodes_shift),
        zone=_zone(raw, kernel),
        migratetype=_migratetype(raw, kernel),
        kind=kind,
        dirty=_flag(raw, kernel, "PG_dirty"),
        writeback=_flag(raw, kernel, "PG_writeback"),
        private=_flag(raw, kernel, "PG_private"),
        swapcache=swapcache,
        refcount=raw.refcount,
        mapcount=raw.mapcount,
        pincount=None if raw.pincount < 0 else raw.pincount,
        cache_refs=_cache_refs(raw, kind, swapcache, kernel),
        s_magic=raw.s_magic,
        errno=-raw.rc,
        attempts=raw.attempts,
        seen=_SEEN.get(raw.seen, Seen.MOVE),
        left=bool(raw.left),
        culprit=_culprit(raw.culprit),
        lru_batch=_lru_batch(failure, kernel) if raw.folio == failure.batch_folio else None,
        lru_batch_cpu=failure.lru_batch_cpu,
        lru_batch_refs=failure.lru_batch_refs,
        poisoned=_flag(raw, kernel, "PG_hwpoison"),
        has_migrate_op=not raw.a_ops or bool(raw.migrate_op),
        refuses_migration=raw.migrate_op in kernel.refusing_ops,
    )


def _lru_batch(failure: layout.Failure, kernel: KernelFacts) -> str:
    """The batch's name; its number counts from 1."""
    names, number = kernel.lru_batches, int(failure.lru_batch)
    return names[number - 1] if 0 < number <= len(names) else f"batch {number}"


def _flag(raw: layout.Folio, kernel: KernelFacts, name: str) -> bool:
    bit = kernel.page_flags.get(name)
    return bit is not None and bool(raw.flags >> bit & 1)


def _zone(raw: layout.Folio, kernel: KernelFacts) -> str | None:
    if kernel.zones_shift is None:
        return None
    return kernel.zones.get(raw.flags >> kernel.zones_shift & kernel.zones_mask)


def _migratetype(raw: layout.Folio, kernel: KernelFacts) -> str | None:
    """The pageblock's type: the low three bits; isolation is a bit of its own from v6.17."""
    if raw.pageblock == PAGEBLOCK_UNKNOWN:
        return None
    if kernel.isolate_bit is not None and raw.pageblock >> kernel.isolate_bit & 1:
        return "ISOLATE"
    return kernel.migratetypes.get(raw.pageblock & 7)


def mapping_kind(raw: layout.Folio, kernel: KernelFacts) -> MappingKind:
    """From the low bits of folio->mapping, then its operations, then its file system."""
    if _is_hugetlb(raw, kernel):
        return MappingKind.HUGETLB
    if not raw.mapping:
        return MappingKind.NONE
    if raw.mapping & PAGE_MAPPING_KSM == PAGE_MAPPING_KSM:
        return MappingKind.KSM
    if raw.mapping & PAGE_MAPPING_ANON:
        return MappingKind.ANON
    return file_kind(raw.a_ops, raw.s_magic, kernel)


def file_kind(a_ops: int, s_magic: int, kernel: KernelFacts) -> MappingKind:
    """What a mapping is made of, by its operations, then by its file system."""
    by_ops = _KINDS_BY_OPS.get(kernel.a_ops.get(a_ops, ""))
    return by_ops or _KINDS_BY_MAGIC.get(s_magic, MappingKind.FILE)


def _is_hugetlb(raw: layout.Folio, kernel: KernelFacts) -> bool:
    if not raw.order:
        return False
    page_type = raw.page_type >> 24 if kernel.page_type_in_top_byte else raw.page_type
    return bool(page_type == kernel.hugetlb_page_type)


def _cache_refs(raw: layout.Folio, kind: MappingKind, swapcache: bool, kernel: KernelFacts) -> int:
    """References of the page cache: one a page; hugetlb on 6.1 one a folio."""
    nr_pages = 1 << int(raw.order)
    if kind in (MappingKind.ANON, MappingKind.KSM):
        return nr_pages if swapcache else 0
    if kind is MappingKind.NONE:
        return 0
    if kind is MappingKind.HUGETLB and raw.mapping & PAGE_MAPPING_ANON:
        return 0
    if kind is MappingKind.HUGETLB and not kernel.hugetlb_cache_refs_per_page:
        return 1
    return nr_pages


_DECODERS: dict[int, Callable[[bytes, KernelFacts], Event]] = {
    layout.Record.TASK: _task_seen,
    layout.Record.MODULE: _module_loaded,
    layout.Record.PIN_FAILED: _pin_ended,
    layout.Record.PIN_SLOW: _pin_ended,
    layout.Record.HINT: _hint_given,
}
