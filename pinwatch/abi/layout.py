"""The records and map values of bpf/pinwatch.h, byte for byte.

Field names and order are those of the header. `static_assertions` gives the C text that makes the
compiler compare the two on every start, so they cannot drift apart unseen.
"""

from __future__ import annotations

import ctypes as ct
from enum import IntEnum

from pinwatch.model.pin import PinSource

COMM_LEN = 16
CMDLINE_LEN = 4096
MODULE_LEN = 56
AREA_LEN = 64
MAX_FOLIOS = 4
STACK_DEPTH = 16
MIGRATE_REASONS = 16
DURATION_SLOTS = 40


class Record(IntEnum):
    TASK = 1
    PIN_FAILED = 2
    MODULE = 3
    PIN_SLOW = 4
    HINT = 5


class Source(IntEnum):
    OTHER = 0
    VFIO_TYPE1 = 1
    IOMMUFD = 2
    IO_URING = 3
    RDMA = 4
    AF_XDP = 5
    VHOST_VDPA = 6
    VDUSE = 7
    UDMABUF = 8
    SEV = 9
    COUNT = 10


class Seen(IntEnum):
    MOVE = 1
    LOCK = 2
    SPLIT = 3
    LEFT = 4


class Holder(IntEnum):
    NONE = 0
    DROP_CACHES = 1
    FADVISE = 2
    RECLAIM = 3
    COMPACTION = 4
    KHUGEPAGED = 5
    KSMD = 6
    DAMON = 7
    NUMA_BALANCING = 8
    MEMORY_OFFLINE = 9
    CONTIG_ALLOC = 10
    MOVE_PAGES = 11
    MEMORY_FAILURE = 12
    PROCESS_VM = 13
    PIPE = 14
    PIN = 15
    PIN_BEFORE = 16
    COUNT = 17


class Wait(IntEnum):
    LRU_DRAIN = 0
    WRITEBACK = 1
    FOLIO_LOCK = 2
    COMPACTION = 3
    COUNT = 4


class Result(IntEnum):
    OK = 0
    FAILED = 1
    COUNT = 2


class Witness(IntEnum):
    THP_MIGRATE_SUCCESS = 0
    THP_MIGRATE_FAIL = 1
    THP_MIGRATE_SPLIT = 2
    THP_SPLIT = 3
    THP_SPLIT_FAILED = 4
    FOLL_PIN_ACQUIRED = 5
    COUNT = 6


class SplitError(IntEnum):
    OTHER = 0
    EAGAIN = 1
    EBUSY = 2
    EINVAL = 3
    ENOMEM = 4
    COUNT = 5


class Loss(IntEnum):
    RING_FULL = 0
    FRAMES_FULL = 1
    FAILURES_FULL = 2
    TOTALS_FULL = 3
    FRAME_STALE = 4
    READ_FAULT = 5
    HINTS_FULL = 6
    COUNT = 7


class Call(IntEnum):
    MADVISE = 0
    MMAP = 1
    MLOCK = 2
    MLOCKALL = 3
    PRCTL = 4
    MEMFD_CREATE = 5
    MBIND = 6
    SET_MEMPOLICY = 7
    COUNT = 8


class Head(ct.Structure):
    _fields_ = (
        ("kind", ct.c_uint32),
        ("tgid", ct.c_uint32),
        ("tid", ct.c_uint32),
        ("uid", ct.c_uint32),
        ("time_ns", ct.c_uint64),
        ("task_start_ns", ct.c_uint64),
        ("cgroup_id", ct.c_uint64),
        ("comm", ct.c_char * COMM_LEN),
    )


class Cmdline(ct.Structure):
    _fields_ = (
        ("len", ct.c_uint32),
        ("error", ct.c_uint32),
        ("text", ct.c_uint8 * CMDLINE_LEN),
    )


class TaskRecord(ct.Structure):
    _fields_ = (("head", Head), ("cmdline", Cmdline))


class HintRecord(ct.Structure):
    _fields_ = (
        ("head", Head),
        ("address", ct.c_uint64),
        ("length", ct.c_uint64),
        ("resident_pages", ct.c_uint64),
        ("pinned_pages", ct.c_uint64),
        ("rc", ct.c_int64),
        ("call", ct.c_uint32),
        ("value", ct.c_uint32),
    )


class ModuleRecord(ct.Structure):
    _fields_ = (("head", Head), ("name", ct.c_char * MODULE_LEN))


class Window(ct.Structure):
    _fields_ = (
        ("start_ns", ct.c_uint64),
        ("end_ns", ct.c_uint64),
        ("first_pfn", ct.c_uint64),
        ("last_pfn", ct.c_uint64),
        ("value", ct.c_uint64),
        ("tgid", ct.c_uint32),
        ("tid", ct.c_uint32),
        ("parent_tgid", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("comm", ct.c_char * COMM_LEN),
        ("parent_comm", ct.c_char * COMM_LEN),
    )


class Culprit(ct.Structure):
    _fields_ = (
        ("start_ns", ct.c_uint64),
        ("holder", ct.c_uint32),
        ("tgid", ct.c_uint32),
        ("tid", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("comm", ct.c_char * COMM_LEN),
    )


class Vma(ct.Structure):
    _fields_ = (
        ("start", ct.c_uint64),
        ("end", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("a_ops", ct.c_uint64),
        ("s_magic", ct.c_uint64),
        ("rc", ct.c_int32),
        ("pad", ct.c_uint32),
    )


class Folio(ct.Structure):
    _fields_ = (
        ("folio", ct.c_uint64),
        ("pfn", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("mapping", ct.c_uint64),
        ("a_ops", ct.c_uint64),
        ("s_magic", ct.c_uint64),
        ("migrate_op", ct.c_uint64),
        ("index", ct.c_uint64),
        ("culprit", Culprit),
        ("mapcount", ct.c_int64),
        ("refcount", ct.c_int32),
        ("pincount", ct.c_int32),
        ("rc", ct.c_int32),
        ("order", ct.c_uint32),
        ("attempts", ct.c_uint32),
        ("seen", ct.c_uint32),
        ("left", ct.c_uint32),
        ("pageblock", ct.c_uint32),
        ("page_type", ct.c_uint32),
        ("is_read", ct.c_uint32),
    )


class Failure(ct.Structure):
    _fields_ = (
        ("vma", Vma),
        ("batch_folio", ct.c_uint64),
        ("dst_gfp", ct.c_uint64),
        ("dst_order", ct.c_uint32),
        ("dst_failed", ct.c_uint32),
        ("split_failed", ct.c_uint32),
        ("split_ok", ct.c_uint32),
        ("split_rc", ct.c_int32),
        ("nr_folios", ct.c_uint32),
        ("folios_dropped", ct.c_uint32),
        ("alloc_failed", ct.c_uint32),
        ("memcg_oom", ct.c_uint32),
        ("lru_batch", ct.c_uint32),
        ("lru_batch_cpu", ct.c_uint32),
        ("lru_batch_refs", ct.c_uint32),
        ("folios", Folio * MAX_FOLIOS),
    )


class Frame(ct.Structure):
    _fields_ = (
        ("start_ns", ct.c_uint64),
        ("task_start_ns", ct.c_uint64),
        ("site", ct.c_uint64),
        ("vaddr", ct.c_uint64),
        ("iova", ct.c_uint64),
        ("length", ct.c_uint64),
        ("span", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("pinned", ct.c_uint64),
        ("foll_pinned", ct.c_uint64),
        ("migrated", ct.c_uint64),
        ("migrate_failed", ct.c_uint64),
        ("gup_pages", ct.c_uint64),
        ("vma_flags", ct.c_uint64),
        ("wait_start_ns", ct.c_uint64),
        ("wait_ns", ct.c_uint64 * Wait.COUNT),
        ("thp_migrated", ct.c_uint32),
        ("thp_failed", ct.c_uint32),
        ("thp_split", ct.c_uint32),
        ("gup_calls", ct.c_uint32),
        ("rounds", ct.c_uint32),
        ("gup_rc", ct.c_int32),
        ("source", ct.c_uint32),
        ("gup_open", ct.c_uint32),
        ("gup_rounds", ct.c_uint32),
        ("migrating", ct.c_uint32),
        ("failing", ct.c_uint32),
        ("gup_short", ct.c_uint32),
        ("gup_loops", ct.c_uint32),
        ("max_loops", ct.c_uint32),
        ("isolate_failed", ct.c_uint32),
        ("collect_failed", ct.c_uint32),
        ("in_place", ct.c_uint32),
        ("waiting", ct.c_uint32),
        ("tgid", ct.c_uint32),
        ("counted", ct.c_uint32),
    )


class Memlock(ct.Structure):
    _fields_ = (
        ("limit_bytes", ct.c_uint64),
        ("locked_pages", ct.c_uint64),
        ("pinned_pages", ct.c_uint64),
        ("user_pages", ct.c_uint64),
        ("cap_effective", ct.c_uint64),
    )


class PinRecord(ct.Structure):
    _fields_ = (
        ("head", Head),
        ("frame", Frame),
        ("memlock", Memlock),
        ("rc", ct.c_int64),
        ("failure", Failure),
        ("windows", Window * Holder.COUNT),
        ("stack", ct.c_uint64 * STACK_DEPTH),
        ("cmdline", Cmdline),
    )


class TotalKey(ct.Structure):
    _fields_ = (
        ("task_start_ns", ct.c_uint64),
        ("tgid", ct.c_uint32),
        ("source", ct.c_uint32),
    )


class Total(ct.Structure):
    _fields_ = (
        ("pins", ct.c_uint64),
        ("failures", ct.c_uint64),
        ("pages", ct.c_uint64),
        ("migrated", ct.c_uint64),
        ("migrate_failed", ct.c_uint64),
    )


class Duration(ct.Structure):
    _fields_ = (("sum_ns", ct.c_uint64), ("slots", ct.c_uint64 * DURATION_SLOTS))


class Limits(ct.Structure):
    _fields_ = (("slow_ns", ct.c_uint64), ("slow_loops", ct.c_uint64))


class Migrations(ct.Structure):
    _fields_ = (("succeeded", ct.c_uint64), ("failed", ct.c_uint64))


class Area(ct.Structure):
    _fields_ = (("name", ct.c_char * AREA_LEN),)


_STRUCTS: dict[str, type[ct.Structure]] = {
    "pw_head": Head,
    "pw_cmdline": Cmdline,
    "pw_task_record": TaskRecord,
    "pw_module_record": ModuleRecord,
    "pw_hint_record": HintRecord,
    "pw_window": Window,
    "pw_culprit": Culprit,
    "pw_vma": Vma,
    "pw_folio": Folio,
    "pw_failure": Failure,
    "pw_frame": Frame,
    "pw_memlock": Memlock,
    "pw_pin_record": PinRecord,
    "pw_total_key": TotalKey,
    "pw_total": Total,
    "pw_duration": Duration,
    "pw_limits": Limits,
    "pw_migrations": Migrations,
    "pw_area": Area,
}

_ENUMS: dict[str, type[IntEnum]] = {
    "PW_RECORD_": Record,
    "PW_SOURCE_": Source,
    "PW_SEEN_": Seen,
    "PW_HOLDER_": Holder,
    "PW_WAIT_": Wait,
    "PW_SPLIT_ERROR_": SplitError,
    "PW_RESULT_": Result,
    "PW_WITNESS_": Witness,
    "PW_LOSS_": Loss,
    "PW_CALL_": Call,
}


def static_assertions() -> str:
    """C text, to be compiled behind bpf/pinwatch.h: every size, offset and value, asserted."""
    facts: list[tuple[str, int]] = []
    for name, struct in _STRUCTS.items():
        facts.append((f"sizeof(struct {name})", ct.sizeof(struct)))
        facts += [
            (f"__builtin_offsetof(struct {name}, {field[0]})", getattr(struct, field[0]).offset)
            for field in struct._fields_
        ]
    for prefix, enum in _ENUMS.items():
        facts += [(prefix + member.name, member.value) for member in enum]
    return "".join(f'_Static_assert({text} == {n}, "{text}");\n' for text, n in facts)


# What /proc/vmstat calls the same sum.
VMSTAT_NAMES: dict[int, str] = {
    Witness.THP_MIGRATE_SUCCESS: "thp_migration_success",
    Witness.THP_MIGRATE_FAIL: "thp_migration_fail",
    Witness.THP_MIGRATE_SPLIT: "thp_migration_split",
    Witness.THP_SPLIT: "thp_split_page",
    Witness.THP_SPLIT_FAILED: "thp_split_page_failed",
    Witness.FOLL_PIN_ACQUIRED: "nr_foll_pin_acquired",
}

LOSS_NAMES: dict[int, str] = {loss: loss.name.lower() for loss in Loss if loss is not Loss.COUNT}

SPLIT_ERROR_NAMES: dict[int, str] = {
    error: error.name if error is not SplitError.OTHER else "other"
    for error in SplitError
    if error is not SplitError.COUNT
}

SOURCE_NAMES: dict[int, PinSource] = {
    source: PinSource[source.name] for source in Source if source is not Source.COUNT
}
