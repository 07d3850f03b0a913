"""What pinwatch asks of a kernel: hooks with ordered candidates, fields, values, symbols.

The one table on this side for differences between kernels (bpf/compat.h is the one on the other).
Availability is asked of BTF and kallsyms, never of the version: distributions backport, compilers
inline.
"""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.model.kernel import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A place in the kernel, its possible symbols (newest first), and what it shows."""

    name: str
    symbols: tuple[str, ...]
    modes: tuple[Mode, ...]  # in order of preference
    sees: str
    entry: bool = True
    exit: bool = False
    returns: str = ""  # "long", "int", "pointer": its exit is the shared program for that
    modules: tuple[str, ...] = ()  # the symbols live in these, which may load later
    reads: int | None = None  # arguments that the program reads; None: any of them
    core: bool = False  # without it there is nothing to say, so the daemon is not ready

    def programs(self, symbol: str, mode: Mode) -> tuple[str, ...]:
        """Names of the BPF programs that this hook needs in a mode (see bpf/common.h)."""
        if mode is Mode.RAW_TRACEPOINT:
            return (f"tp_{self.name}",)
        prefixes = ("kfunc__", "kretfunc__") if mode is Mode.FENTRY else ("entry_", "return_")
        target = symbol if mode is Mode.FENTRY else self.name
        wanted = zip(prefixes, (self.entry, self.exit), strict=True)
        own = tuple(prefix + target for prefix, want in wanted if want)
        return (*own, f"return_{self.returns}") if self.returns else own


_TRACED = (Mode.FENTRY, Mode.KPROBE)
_TRACEPOINT = (Mode.RAW_TRACEPOINT,)
# Seldom called, so that they can share programs; and bcc before 0.28 has no trampoline for modules.
_REQUEST = (Mode.KPROBE,)

_PIN = (
    Hook(
        name="gup_longterm",
        symbols=("__gup_longterm_locked",),
        modes=_TRACED,
        exit=True,
        core=True,
        sees="long-term pins",
    ),
    Hook(
        name="memfd_pin",
        symbols=("memfd_pin_folios",),  # v6.11
        modes=_TRACED,
        exit=True,
        sees="pins of a memfd that need no mapping (udmabuf, iommufd)",
    ),
    Hook(
        name="check_vma",
        symbols=("check_vma_flags",),
        modes=(Mode.FENTRY,),  # the argument is needed on return
        entry=False,
        exit=True,
        sees="memory of a kind that may not be pinned, and pins that start again and again",
    ),
    Hook(
        name="collect",
        symbols=("collect_longterm_unpinnable_folios",),  # v6.12, before it is inlined
        modes=(Mode.FENTRY,),
        entry=False,
        exit=True,
        sees="folios that could not be isolated",
    ),
    Hook(
        name="task_exit",
        symbols=("sched_process_exit",),
        modes=_TRACEPOINT,
        sees="threads that end in a pin whose return was missed",
    ),
    Hook(
        name="memcg_oom",
        symbols=("mem_cgroup_out_of_memory",),
        modes=_TRACED,
        sees="a memory cgroup's limit as the cause",
    ),
)

_MIGRATION = (
    Hook(
        name="migrate_start",
        symbols=("mm_migrate_pages_start",),
        modes=_TRACEPOINT,
        core=True,
        sees="rounds of migration in a pin",
    ),
    Hook(
        name="migrate_end",
        symbols=("mm_migrate_pages",),
        modes=_TRACEPOINT,
        core=True,
        sees="migrated and failed pages",
    ),
    Hook(
        name="folio_undo",
        symbols=("migrate_folio_undo_src",),  # v6.3 (5dfab109d519)
        modes=_TRACED,
        sees="folios that could not be moved at the moment of each attempt, not only at the end",
    ),
    Hook(
        name="alloc_failed",
        symbols=("warn_alloc",),
        # variadic: no trampoline
        modes=(Mode.KPROBE,),
        sees="destinations that could not be allocated",
    ),
    Hook(
        name="putback",
        symbols=("putback_movable_pages",),
        modes=_TRACED,
        sees="which folios were left when the pin gave up, with their references",
    ),
    Hook(
        name="lru_search",
        symbols=("putback_movable_pages",),
        modes=(Mode.KPROBE,),  # an fentry program is named by its function, which has one
        sees="pages that sit in a CPU's LRU batch",
    ),
    Hook(
        name="split",
        symbols=(
            "__folio_split",  # v6.15
            "split_huge_page_to_list_to_order",  # v6.9
            "split_huge_page_to_list",
        ),
        modes=_TRACED,
        exit=True,
        sees="huge pages that could not be split",
    ),
)

_SOURCES = (
    Hook(
        name="vfio_map",
        symbols=("vfio_iommu_type1_ioctl",),
        modes=_REQUEST,
        returns="long",
        modules=("vfio_iommu_type1",),
        sees="VFIO type1 maps",
    ),
    Hook(
        name="iommufd_map",
        symbols=("iopt_map_user_pages",),
        modes=_REQUEST,
        returns="int",
        modules=("iommufd",),
        sees="iommufd maps",
    ),
    Hook(
        name="iommufd_map_file",
        symbols=("iopt_map_file_pages",),  # v6.13
        modes=_REQUEST,
        returns="int",
        modules=("iommufd",),
        sees="iommufd maps of a memfd",
    ),
    Hook(
        name="iommufd_attach",
        symbols=("iopt_table_add_domain",),
        modes=_REQUEST,
        returns="int",
        modules=("iommufd",),
        sees="iommufd maps that are pinned when a device is attached",
    ),
    Hook(
        name="io_register",
        symbols=("io_sqe_buffers_register",),
        modes=_REQUEST,
        returns="int",
        sees="io_uring's registration of buffers as one operation",
    ),
    Hook(
        name="io_pin",
        symbols=("io_pin_pages",),
        modes=_REQUEST,
        returns="pointer",
        sees="memory that io_uring pins",
    ),
    Hook(
        name="rdma_umem",
        symbols=(
            "__ib_umem_get_va",  # v7.1, in ib_core
            "ib_umem_get",
        ),
        modes=_REQUEST,
        returns="pointer",
        modules=("ib_core", "ib_uverbs"),
        sees="RDMA memory regions",
    ),
    Hook(
        name="xdp_umem",
        symbols=("xdp_umem_create",),
        modes=_REQUEST,
        returns="pointer",
        sees="AF_XDP memory",
    ),
    Hook(
        name="vhost_vdpa",
        symbols=("vhost_vdpa_process_iotlb_msg",),
        modes=_REQUEST,
        returns="int",
        modules=("vhost_vdpa",),
        sees="vhost-vdpa maps",
    ),
    Hook(
        name="vduse",
        symbols=("vduse_dev_ioctl",),
        modes=_REQUEST,
        returns="long",
        modules=("vduse",),
        sees="VDUSE memory",
    ),
    Hook(
        name="udmabuf",
        symbols=("udmabuf_ioctl",),
        modes=_REQUEST,
        returns="long",
        sees="DMA buffers made of memfds",
    ),
    Hook(
        name="sev_region",
        symbols=("sev_mem_enc_register_region",),
        modes=_REQUEST,
        returns="int",
        modules=("kvm_amd",),
        sees="memory of SEV guests",
    ),
)

_WAITS = (
    Hook(
        name="lru_drain",
        symbols=("lru_add_drain_all",),
        modes=_TRACED,
        exit=True,
        sees="pins that wait for all CPUs to drain their LRU batches",
    ),
    Hook(
        name="writeback",
        symbols=("folio_wait_writeback",),
        modes=_TRACED,
        exit=True,
        sees="pins that wait for writeback",
    ),
    Hook(
        name="folio_lock",
        symbols=("__folio_lock",),
        modes=_TRACED,
        exit=True,
        sees="pins that wait for a locked folio",
    ),
)

_HOLDERS = (
    Hook(
        name="drop_caches",
        symbols=("drop_caches_sysctl_handler",),
        modes=_TRACED,
        exit=True,
        sees="who writes to drop_caches",
    ),
    Hook(
        name="invalidate",
        symbols=("invalidate_mapping_pages",),
        modes=_TRACED,
        exit=True,
        sees="which mapping drop_caches walks",
    ),
    Hook(
        name="fadvise",
        symbols=(
            "mapping_try_invalidate",  # v6.5
            "invalidate_mapping_pagevec",
        ),
        modes=_TRACED,
        exit=True,
        sees="which mapping posix_fadvise walks",
    ),
    Hook(
        name="collapse_file",
        symbols=("collapse_file",),
        modes=_TRACED,
        exit=True,
        sees="which mapping khugepaged collapses",
    ),
    Hook(
        name="vmsplice",
        symbols=("__x64_sys_vmsplice",),  # what it calls is inlined
        modes=_TRACED,
        exit=True,
        sees="pages put into pipes by vmsplice",
    ),
    Hook(
        name="splice",
        symbols=("splice_file_to_pipe",),
        modes=_TRACED,
        exit=True,
        sees="pages put into pipes by splice",
    ),
    Hook(
        name="compaction_begin",
        symbols=("mm_compaction_begin",),
        modes=_TRACEPOINT,
        sees="compaction",
    ),
    Hook(
        name="compaction_end",
        symbols=("mm_compaction_end",),
        modes=_TRACEPOINT,
        sees="the end of compaction",
    ),
    Hook(
        name="reclaim", symbols=("shrink_node",), modes=_TRACED, exit=True, sees="reclaim, kswapd"
    ),
    Hook(name="pageout", symbols=("reclaim_pages",), modes=_TRACED, exit=True, sees="MADV_PAGEOUT"),
    Hook(
        name="khugepaged_pmd",
        symbols=("mm_khugepaged_scan_pmd",),
        modes=_TRACEPOINT,
        sees="khugepaged at anonymous memory",
    ),
    Hook(
        name="khugepaged_file",
        symbols=("mm_khugepaged_scan_file",),
        modes=_TRACEPOINT,
        sees="khugepaged at shared memory",
    ),
    Hook(
        name="ksm_start",
        symbols=("ksm_start_scan",),  # v6.4
        modes=_TRACEPOINT,
        sees="ksmd",
    ),
    Hook(name="ksm_stop", symbols=("ksm_stop_scan",), modes=_TRACEPOINT, sees="the end of a scan"),
    Hook(
        name="ksm_merge",
        symbols=("try_to_merge_one_page",),
        modes=_TRACED,
        sees="ksmd at pages that it merges",
    ),
    Hook(name="damon", symbols=("damon_get_folio",), modes=_TRACED, sees="DAMON"),
    Hook(
        name="offline",
        symbols=("offline_pages",),
        modes=_TRACED,
        exit=True,
        sees="memory being taken offline",
    ),
    Hook(
        name="contig",
        symbols=(
            "alloc_contig_frozen_range_noprof",
            "alloc_contig_range_noprof",  # v6.10
            "alloc_contig_range",
        ),
        modes=_TRACED,
        exit=True,
        sees="contiguous allocation: CMA, gigantic pages",
    ),
    Hook(
        name="memory_failure",
        symbols=("memory_failure",),
        modes=_TRACED,
        exit=True,
        sees="memory errors",
    ),
    Hook(
        name="process_vm",
        symbols=("process_vm_rw",),
        modes=_TRACED,
        exit=True,
        reads=1,  # of seven
        sees="process_vm_readv and process_vm_writev",
    ),
)

_HOST = (
    Hook(
        name="cma_finish",
        symbols=("cma_alloc_finish",),
        modes=_TRACEPOINT,
        sees="CMA allocations that fail",
    ),
    Hook(
        name="module_load",
        symbols=("module_load",),
        modes=_TRACEPOINT,
        sees="modules that load later (found by polling instead)",
    ),
)

# One for each system call: its wrapper has the caller's registers, on every kernel the same.
_HINTS = tuple(
    Hook(
        name=f"hint_{call}",
        symbols=(f"__x64_sys_{call}",),
        modes=(Mode.FENTRY,),  # the arguments are needed on return
        entry=False,
        exit=True,
        sees=f"what a VMM says of its memory by {call}(2)",
    )
    for call in (
        "madvise", "mmap", "mlock", "mlock2", "mlockall", "prctl", "memfd_create", "mbind",
        "set_mempolicy",
    )
)  # fmt: skip

HOOKS: tuple[Hook, ...] = (*_PIN, *_MIGRATION, *_SOURCES, *_WAITS, *_HOLDERS, *_HOST, *_HINTS)

# The only fields of kernel structures that bpf/*.c may name.
FIELDS: dict[str, tuple[str, ...]] = {
    "task_struct": (
        "flags", "tgid", "comm", "mm", "signal", "cred", "real_parent", "group_leader",
        "start_boottime", "files",
    ),
    "mm_struct": ("arg_start", "arg_end", "locked_vm", "pinned_vm", "rss_stat"),
    "mm_rss_stat": ("count",),  # before v6.2
    "percpu_counter": ("count",),
    "signal_struct": ("rlim",),
    "cred": ("cap_effective", "user"),
    "user_struct": ("locked_vm",),
    "vm_area_struct": ("vm_start", "vm_end", "vm_flags", "vm_file"),
    "file": ("f_mapping", "private_data"),
    "files_struct": ("fdt",),
    "fdtable": ("fd",),
    "pipe_inode_info": ("head", "tail", "ring_size", "bufs"),
    "pipe_buffer": ("page",),
    "page": ("_mapcount", "compound_head"),
    "folio": (
        "flags", "lru", "mapping", "index", "_mapcount", "_refcount", "_pincount",
        "_flags_1", "_folio_order", "_folio_dtor", "_total_mapcount", "_large_mapcount",
    ),
    "address_space": ("a_ops", "host"),
    "address_space_operations": ("migrate_folio",),
    "inode": ("i_sb",),
    "super_block": ("s_magic",),
    "mem_section": ("usage",),
    "mem_section_usage": ("pageblock_flags",),
    "module": ("name",),
    # the registers that a kprobe reads, and a system call's arguments, x86-64
    "pt_regs": ("di", "si", "dx", "cx", "r8", "r9", "r10", "ax", "ip", "sp", "bp"),
}  # fmt: skip

# Enumerators passed to the BPF side as KERNEL_<name>.
ENUMERATORS = (
    "FOLL_LONGTERM", "MR_LONGTERM_PIN", "MR_NUMA_MISPLACED", "MR_SYSCALL", "MR_MEMPOLICY_MBIND",
    "PG_head",
)  # fmt: skip

# Symbols whose addresses the BPF side reads, and operations tables that tell a mapping's kind.
DATA_SYMBOLS = ("vmemmap_base", "mem_section", "__per_cpu_offset")
CMA_SYMBOLS = ("cma_areas", "cma_area_count")  # user space reads them (host/cma.py)
A_OPS = ("shmem_aops", "swap_aops", "hugetlbfs_aops", "secretmem_aops")

# Operations that refuse every migration: nothing to wait for.
REFUSING_OPS = ("secretmem_migrate_folio", "kvm_gmem_migrate_folio", "aio_migrate_folio")


@dataclass(frozen=True, slots=True)
class LruBatch:
    """A per-CPU batch of folios on their way to an LRU list: symbol, and member of its type."""

    symbol: str
    struct: str
    member: str


# mm/swap.c, mm/mlock.c. A kernel has those whose symbol and member it has.
LRU_BATCHES = (
    *(
        LruBatch("cpu_fbatches", "cpu_fbatches", member)
        for member in (
            "lru_add", "lru_deactivate_file", "lru_deactivate", "lru_lazyfree", "lru_activate",
            "lru_move_tail",
            "activate",  # before v6.12
        )
    ),
    LruBatch("lru_rotate", "lru_rotate", "fbatch"),  # before v6.12
    LruBatch("mlock_fbatch", "mlock_fbatch", "fbatch"),  # v6.4
    LruBatch("mlock_pvec", "mlock_pvec", "vec"),
)  # fmt: skip

PAGE_FLAGS = (
    "PG_locked", "PG_writeback", "PG_dirty", "PG_lru", "PG_head", "PG_private", "PG_private_2",
    "PG_unevictable", "PG_mlocked", "PG_swapcache", "PG_swapbacked", "PG_uptodate", "PG_active",
    "PG_hwpoison",
)  # fmt: skip
ZONES = {"DMA": "ZONE_DMA", "DMA32": "ZONE_DMA32", "Normal": "ZONE_NORMAL",
         "Movable": "ZONE_MOVABLE", "Device": "ZONE_DEVICE"}  # fmt: skip
MIGRATETYPES = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")

# enum migrate_reason
MIGRATE_REASONS = (
    "COMPACTION", "MEMORY_FAILURE", "MEMORY_HOTPLUG", "SYSCALL", "MEMPOLICY_MBIND",
    "NUMA_MISPLACED", "CONTIG_RANGE", "LONGTERM_PIN", "DEMOTION", "DAMON",
)  # fmt: skip
