"""Values for tests: complete, plausible, and changed where a test says so."""

from __future__ import annotations

import ctypes as ct
from dataclasses import replace
from typing import Any

from pinwatch.abi import layout
from pinwatch.classify import rules
from pinwatch.forecast import forecast
from pinwatch.model.event import Activity, FolioFacts, MappingKind, Memlock, PinEnded, Seen, Task
from pinwatch.model.failure import Failure, SlowCause, SlowPin
from pinwatch.model.forecast import Case, Outlook
from pinwatch.model.holder import Holder, HolderMatch
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.placement import (
    Backing,
    Cma,
    FreeMemory,
    Limits,
    Mapping,
    PageClass,
    PinRules,
    Placement,
    Portion,
    Zone,
)
from pinwatch.model.sample import KernelSample, OpenPin, TaskKey
from pinwatch.model.vm import Basis, Platform, Vm
from pinwatch.recording import Looked

FACTS = KernelFacts(
    release="6.12.0-test",
    page_flags={"PG_dirty": 4, "PG_writeback": 1, "PG_private": 14, "PG_swapcache": 10,
                "PG_swapbacked": 17, "PG_head": 6, "PG_hwpoison": 20},
    zones={0: "DMA", 1: "DMA32", 2: "Normal", 3: "Movable", 4: "Device"},
    migratetypes={0: "UNMOVABLE", 1: "MOVABLE", 2: "RECLAIMABLE", 4: "CMA"},
    isolate_bit=4,
    zones_shift=51,
    zones_mask=7,
    nodes_shift=10,
    hugetlb_page_type=244,
    page_type_in_top_byte=True,
    a_ops={0xFFFF1000: "shmem_aops"},
    refusing_ops=(0xFFFF2000,),
    lru_batches=("cpu_fbatches.lru_add", "mlock_fbatch.fbatch"),
    migrate_reasons={0: "compaction", 7: "longterm_pin"},
)  # fmt: skip

TASK = Task(
    key=TaskKey(tgid=4242, start_ns=7_000_000_000), tid=4243, uid=0, comm="qemu", cgroup_id=1
)
VM = Vm(
    name="web-01", uuid="6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21", platform=Platform.QEMU,
    vmm="qemu-kvm", basis=Basis.CMDLINE,
)  # fmt: skip


def free(**changes: Any) -> FreeMemory:
    """A node of 1 GiB of Normal, a quarter of it free, and as much of Movable, all free."""
    zone = Zone(
        node=0, name="Normal", start_pfn=0, spanned=1 << 18, present=1 << 18, managed=1 << 18,
        free=1 << 16, free_cma=0, cma=0, watermark_min=1000, watermark_low=2000, reserve=0,
        per_cpu=0, file=0, anon=0, by_order=(0,) * 9 + (0, 64),
    )  # fmt: skip
    movable = replace(zone, name="Movable", start_pfn=1 << 18, free=1 << 18)
    return FreeMemory(**{"zones": (zone, movable)} | changes)


def placement(movable: int = 128 << 20, kernel: int = 0) -> Placement:
    """A guest of so many bytes in each kind of zone, all of it there, in small pages of shmem."""
    page = PageClass(
        node=0, zone="Movable", cma=Cma.NO, backing=Backing.BASE, kind=MappingKind.SHMEM
    )
    portions = (Portion(page, movable), Portion(replace(page, zone="Normal"), kernel))
    memory = Mapping(start=1 << 30, end=(1 << 30) + movable + kernel, kind=page.kind, shared=True)
    return Placement(
        mappings=(memory,), portions=tuple(p for p in portions if p.size_bytes), error=0.01,
        samples=20_000,
    )  # fmt: skip


def looked(task: TaskKey = TASK.key, place: Placement | None = None) -> Looked:
    """A VM's process as it was looked at."""
    return Looked(
        task=task, time_ns=9_000_000_000, placement=place or placement(), limits=Limits(),
        rules=PinRules(),
    )  # fmt: skip


def outlook(place: Placement | None = None, host: FreeMemory | None = None) -> Outlook:
    """What that says."""
    case = Case(placement=place or placement(), free=host or free(), limits=Limits())
    return Outlook(time_s=9.0, case=case, forecast=forecast(case))


def folio(**changes: Any) -> FolioFacts:
    """An order-0 shmem folio in Movable with one extra plain reference, unmapped."""
    values: dict[str, Any] = {
        "pfn": 0x103BB1, "order": 0, "node": 0, "zone": "Movable", "migratetype": "MOVABLE",
        "kind": MappingKind.SHMEM, "dirty": True, "writeback": False, "private": False,
        "swapcache": False, "refcount": 3, "mapcount": 0, "pincount": None, "cache_refs": 1,
        "s_magic": 0x01021994, "errno": 0, "attempts": 2, "seen": Seen.MOVE, "left": True,
        "culprit": None, "lru_batch": None, "lru_batch_cpu": 0, "lru_batch_refs": 1,
        "poisoned": False, "has_migrate_op": True, "refuses_migration": False,
    }  # fmt: skip
    return FolioFacts(**values | changes)


def activity(**changes: Any) -> Activity:
    """drop_caches of another process that covers the whole of `pin()`."""
    values: dict[str, Any] = {
        "holder": Holder.DROP_CACHES, "start_ns": 9_000_000_000, "end_ns": None, "tgid": 900,
        "tid": 901, "comm": "sh", "parent_tgid": 800, "parent_comm": "cron", "value": 1,
    }  # fmt: skip
    return Activity(**values | changes)


def pin(**changes: Any) -> PinEnded:
    """A VFIO map of 64 MiB that failed with ENOMEM in migration because of `folio()`."""
    values: dict[str, Any] = {
        "time_ns": 10_000_000_000, "task": TASK, "cmdline": (), "source": PinSource.VFIO_TYPE1,
        "errno": 12, "gup_errno": 12, "gup_short": 512, "duration_ns": 180_000_000,
        "vaddr": 0x7F0000000000,
        "iova": 0, "length_bytes": 64 << 20, "pinned_pages": 8192, "gup_calls": 17, "rounds": 17,
        "migrated_pages": 8703, "failed_pages": 1, "thp_failed": 0, "thp_split": 0,
        "dst_failed": 0, "dst_order": 0, "split_failed": 0, "split_ok": 0, "split_errno": 0,
        "loops": 2, "last_loops": 2, "last_vma_flags": 0xB, "isolate_failed": 0, "in_place": 0,
        "alloc_failed": 0,
        "memcg_oom": 0, "waits_ns": dict.fromkeys(Wait, 0), "vma": None, "activities": (),
        "stack": (), "folios": (folio(),), "folios_dropped": 0,
        "memlock": Memlock(
            limit_pages=1 << 40, locked_pages=0, pinned_pages=0, user_pages=0, cap_ipc_lock=True
        ),
    }  # fmt: skip
    return PinEnded(**values | changes)


def slow_pin(**changes: Any) -> SlowPin:
    """A VFIO map that worked after 3 s, of which it waited 2 for writeback."""
    worked = pin(
        errno=0, gup_errno=0, duration_ns=3_000_000_000,
        waits_ns=dict.fromkeys(Wait, 0) | {Wait.WRITEBACK: 2_000_000_000},
    )  # fmt: skip
    value = SlowPin(
        id="dhqfj4w1k2ab", number=2, time_s=1_790_000_000.0, vm=VM, pin=worked,
        cause=SlowCause.WRITEBACK, also=(), caller=(),
    )  # fmt: skip
    return replace(value, **changes)


def open_pin(**changes: Any) -> OpenPin:
    """A pin that began 5 s before `sample()`."""
    values: dict[str, Any] = {
        "task": TASK.key, "source": PinSource.VFIO_TYPE1, "start_ns": 5_000_000_000, "vaddr": 0,
        "length_bytes": 64 << 20, "loops": 1, "rounds": 0, "wait": None,
    }  # fmt: skip
    return OpenPin(**values | changes)


def sample(**changes: Any) -> KernelSample:
    """Nothing has been counted, 10 s after boot."""
    values: dict[str, Any] = {
        "time_ns": 10_000_000_000, "totals": (), "durations": (), "witnesses": {}, "losses": {},
        "migrations": (), "split_errors": {}, "cma_failures": {}, "open_pins": (),
    }  # fmt: skip
    return KernelSample(**values | changes)


def failure(of: PinEnded | None = None, **changes: Any) -> Failure:
    """`pin()`, classified."""
    of = of or pin()
    reason, folios = rules.classify(of)
    value = Failure(
        id="dhqfj4w1k2aa",
        number=1,
        time_s=1_790_000_000.0,
        vm=VM,
        pin=of,
        reason=reason,
        holder=HolderMatch(holder=Holder.UNKNOWN if reason.about_references else Holder.NONE),
        also=(),
        primary=rules.primary(folios),
        folios=folios,
        caller=(),
        devices=(),
        hints=(),
    )
    return replace(value, **changes)


def head(kind: layout.Record) -> layout.Head:
    return layout.Head(
        kind=kind, tgid=4242, tid=4243, time_ns=10_000_000_000, task_start_ns=7_000_000_000,
        cgroup_id=1, comm=b"qemu-system-x86",
    )  # fmt: skip


def cmdline(*words: bytes) -> layout.Cmdline:
    """As the kernel side reads it: arguments separated by NUL, cut at the buffer."""
    text = b"".join(word + b"\0" for word in words)[: layout.CMDLINE_LEN]
    raw = layout.Cmdline(len=len(text))
    ct.memmove(raw.text, text, len(text))
    return raw


def pin_record(*words: bytes) -> layout.PinRecord:
    """A failed VFIO map with one folio, as bytes would have it."""
    record = layout.PinRecord(head=head(layout.Record.PIN_FAILED), rc=-12, cmdline=cmdline(*words))
    record.frame = layout.Frame(
        start_ns=9_820_000_000, length=64 << 20, source=layout.Source.VFIO_TYPE1, pinned=8192,
        migrated=8703, migrate_failed=1, gup_rc=-12, gup_calls=17, rounds=17,
    )  # fmt: skip
    record.failure.nr_folios = 1
    record.failure.folios[0] = layout.Folio(
        folio=0xFFFFEA0000000000, pfn=0x103BB1, flags=(3 << 51) | (1 << 4) | (1 << 17),
        mapping=0xFFFF8880, a_ops=0xFFFF1000, s_magic=0x01021994, refcount=3, pincount=-1,
        attempts=2, seen=layout.Seen.MOVE, left=1, pageblock=1, is_read=1,
    )  # fmt: skip
    return record
