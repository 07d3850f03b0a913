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
    module: str = ""  # the symbol lives in this module, which may load later
    core: bool = False  # without it there is nothing to say, so the daemon is not ready

    def programs(self, symbol: str, mode: Mode) -> tuple[str, ...]:
        """Names of the BPF programs that this hook needs in a mode (see bpf/common.h)."""
        if mode is Mode.RAW_TRACEPOINT:
            return (f"tp_{self.name}",)
        prefixes = ("kfunc__", "kretfunc__") if mode is Mode.FENTRY else ("entry_", "return_")
        target = symbol if mode is Mode.FENTRY else self.name
        wanted = zip(prefixes, (self.entry, self.exit), strict=True)
        return tuple(prefix + target for prefix, want in wanted if want)


_TRACED = (Mode.FENTRY, Mode.KPROBE)

HOOKS: tuple[Hook, ...] = (
    Hook(
        name="gup_longterm",
        symbols=("__gup_longterm_locked",),
        modes=_TRACED,
        exit=True,
        core=True,
        sees="long-term pins",
    ),
    Hook(
        name="migrate_start",
        symbols=("mm_migrate_pages_start",),
        modes=(Mode.RAW_TRACEPOINT,),
        core=True,
        sees="rounds of migration in a pin",
    ),
    Hook(
        name="migrate_end",
        symbols=("mm_migrate_pages",),
        modes=(Mode.RAW_TRACEPOINT,),
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
    Hook(
        name="vfio_map",
        symbols=("vfio_iommu_type1_ioctl",),
        # bcc before 0.28 has no trampoline for functions of modules
        modes=(Mode.KPROBE,),
        exit=True,
        module="vfio_iommu_type1",
        sees="VFIO type1 maps",
    ),
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
        name="module_load",
        symbols=("module_load",),
        modes=(Mode.RAW_TRACEPOINT,),
        sees="modules that load later (found by polling instead)",
    ),
)

# The only fields of kernel structures that bpf/*.c may name.
FIELDS: dict[str, tuple[str, ...]] = {
    "task_struct": (
        "flags", "tgid", "comm", "mm", "signal", "cred", "real_parent", "group_leader",
        "start_boottime",
    ),
    "mm_struct": ("arg_start", "arg_end", "locked_vm", "pinned_vm"),
    "signal_struct": ("rlim",),
    "cred": ("cap_effective",),
    "page": ("_mapcount", "compound_head"),
    "folio": (
        "flags", "lru", "mapping", "index", "_mapcount", "_refcount", "_pincount",
        "_flags_1", "_folio_order", "_folio_dtor", "_total_mapcount", "_large_mapcount",
    ),
    "address_space": ("a_ops", "host"),
    "inode": ("i_sb",),
    "super_block": ("s_magic",),
    "mem_section": ("usage",),
    "mem_section_usage": ("pageblock_flags",),
    "module": ("name",),
    # the registers that a kprobe reads, x86-64
    "pt_regs": ("di", "si", "dx", "cx", "r8", "r9", "ax", "ip", "sp", "bp"),
}  # fmt: skip

# Enumerators passed to the BPF side as KERNEL_<name>.
ENUMERATORS = ("FOLL_LONGTERM", "MR_LONGTERM_PIN", "PG_head")

# Symbols whose addresses the BPF side reads, and operations tables that tell a mapping's kind.
DATA_SYMBOLS = ("vmemmap_base", "mem_section")
A_OPS = ("shmem_aops", "swap_aops", "hugetlbfs_aops", "secretmem_aops")

PAGE_FLAGS = (
    "PG_locked", "PG_writeback", "PG_dirty", "PG_lru", "PG_head", "PG_private", "PG_private_2",
    "PG_unevictable", "PG_mlocked", "PG_swapcache", "PG_swapbacked", "PG_uptodate", "PG_active",
)  # fmt: skip
ZONES = {"DMA": "ZONE_DMA", "DMA32": "ZONE_DMA32", "Normal": "ZONE_NORMAL",
         "Movable": "ZONE_MOVABLE", "Device": "ZONE_DEVICE"}  # fmt: skip
MIGRATETYPES = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")
