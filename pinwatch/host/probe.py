"""Ask the running kernel what it is: BTF, kallsyms, lockdown, and so the facts and the plan.

Reads files under the given roots; gives KernelFacts and, for each hook, the symbol it has here or
the reason why not. Imports neither bcc nor anything that needs privileges.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pinwatch.errors import CannotRunError
from pinwatch.host import compat
from pinwatch.host.btf import Btf, BtfError
from pinwatch.host.compat import Hook, LruBatch
from pinwatch.model.kernel import KernelFacts, Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHook:
    """A hook with the symbol chosen for this kernel; none means off, with the reason. A hook into
    modules keeps all: which one there is shows when a module is loaded."""

    hook: Hook
    symbols: tuple[str, ...] = ()
    nr_args: int | None = None
    modes: tuple[Mode, ...] = ()
    reason: str = ""

    @property
    def symbol(self) -> str:
        return self.symbols[0] if self.symbols else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProbe:
    """All that was found out, enough to generate the header tree and to decode records."""

    facts: KernelFacts
    plan: tuple[PlannedHook, ...]
    btf: Btf
    symbols: dict[str, int]
    cpus: int  # possible ones


def read_btf(sysfs: Path) -> Btf:
    """The kernel's BTF; CannotRunError when it has none or it cannot be read."""
    path = sysfs / "kernel/btf/vmlinux"
    try:
        return Btf(path.read_bytes())
    except FileNotFoundError:
        raise CannotRunError(
            f"this kernel has no type information: {path} is missing",
            hint="boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution's)",
        ) from None
    except PermissionError:
        raise CannotRunError(f"cannot read {path}", hint="run as root") from None
    except BtfError as error:
        raise CannotRunError(f"cannot use {path}: {error}", hint="see pinwatch doctor") from None


def read_symbols(procfs: Path, wanted: frozenset[str]) -> dict[str, int]:
    """Addresses of the wanted kernel symbols; 0 where the kernel hides them (kptr_restrict)."""
    try:
        text = (procfs / "kallsyms").read_bytes()
    except OSError:
        return {}  # a hardened unit hides it: no kprobes, no frame numbers; fentry needs none
    found = {}
    for name in wanted:
        for tail in (b"\n", b"\t"):  # a tab and [module] follow a module's symbol
            at = text.find(b" " + name.encode() + tail)
            if at >= 0:
                line = text[text.rfind(b"\n", 0, at) + 1 : at]
                found[name] = int(line.split()[0], 16)
                break
    return found


def plan_hook(hook: Hook, btf: Btf, symbols: dict[str, int]) -> PlannedHook:
    """Choose the first symbol that this kernel has. Functions of modules are taken on trust:
    they appear when the module does."""
    if hook.modules:
        return PlannedHook(hook=hook, symbols=hook.symbols, modes=hook.modes)
    for symbol in hook.symbols:
        if hook.modes == (Mode.RAW_TRACEPOINT,):
            nr_args = btf.tracepoint_nr_args(symbol)
            modes: tuple[Mode, ...] = hook.modes if nr_args is not None else ()
        else:
            nr_args = btf.nr_args(symbol)
            modes = tuple(m for m in hook.modes if _possible(m, hook, symbol, nr_args, symbols))
        if modes:
            return PlannedHook(hook=hook, symbols=(symbol,), nr_args=nr_args, modes=modes)
    tried = ", ".join(hook.symbols)
    return PlannedHook(hook=hook, reason=f"this kernel has none of: {tried}")


def _possible(
    mode: Mode, hook: Hook, symbol: str, nr_args: int | None, symbols: dict[str, int]
) -> bool:
    """fentry needs the function in BTF. A kprobe needs it in kallsyms, and the arguments that it
    reads in registers: x86-64 passes six."""
    if mode is Mode.FENTRY:
        return nr_args is not None
    reads = hook.reads if hook.reads is not None else nr_args
    return symbol in symbols and (reads or 0) <= 6


def make_plan(btf: Btf, symbols: dict[str, int]) -> tuple[PlannedHook, ...]:
    """The plan for all hooks, in the order of the table."""
    return tuple(plan_hook(hook, btf, symbols) for hook in compat.HOOKS)


def make_facts(btf: Btf, symbols: dict[str, int], release: str) -> KernelFacts:
    """Numbers for decoding, from BTF and symbol addresses."""
    zones = _present({name: btf.enumerator(zone) for name, zone in compat.ZONES.items()})
    zone_bits = max((btf.enumerator("__MAX_NR_ZONES") or 1) - 1, 0).bit_length()
    nodes_shift = _nodes_shift(btf)
    hugetlb = btf.enumerator("PGTY_hugetlb")
    dtor = btf.enumerator("HUGETLB_PAGE_DTOR")
    types = _present({n: btf.enumerator(f"MIGRATE_{n}") for n in compat.MIGRATETYPES})
    isolate_bit = btf.enumerator("PB_migrate_isolate")
    return KernelFacts(
        release=release,
        page_flags=_present({name: btf.enumerator(name) for name in compat.PAGE_FLAGS}),
        zones={value: name for name, value in zones.items()},
        migratetypes={value: name for name, value in types.items()},
        isolate_bit=isolate_bit,
        zones_shift=None if nodes_shift is None else 64 - nodes_shift - zone_bits,
        zones_mask=(1 << zone_bits) - 1,
        nodes_shift=nodes_shift,
        hugetlb_page_type=hugetlb if hugetlb is not None else dtor,
        page_type_in_top_byte=hugetlb is not None,
        hugetlb_cache_refs_per_page=dtor is None,
        a_ops={symbols[name]: name for name in compat.A_OPS if symbols.get(name)},
        refusing_ops=tuple(symbols[name] for name in compat.REFUSING_OPS if symbols.get(name)),
        lru_batches=tuple(
            f"{batch.symbol}.{batch.member}" for batch, _ in lru_batches(btf, symbols)
        ),
        migrate_reasons=_migrate_reasons(btf),
    )


def lru_batches(btf: Btf, symbols: dict[str, int]) -> tuple[tuple[LruBatch, int], ...]:
    """The per-CPU batches of this kernel, each with its per-CPU address (before the CPU's own
    offset is added)."""
    found = []
    for batch in compat.LRU_BATCHES:
        field = btf.field(batch.struct, batch.member)
        if field is not None and batch.symbol in symbols:
            found.append((batch, symbols[batch.symbol] + field.offset))
    return tuple(found)


def lru_batch_size(btf: Btf) -> int | None:
    """Entries of a batch: 31, 15 before v6.11, behind a header of 8 bytes. None: not known."""
    size = btf.size("folio_batch")
    return None if size is None else (size - 8) // 8


def _migrate_reasons(btf: Btf) -> dict[int, str]:
    """enum migrate_reason: its names as the tracepoint prints them, near enough."""
    values = {name: btf.enumerator(f"MR_{name}") for name in compat.MIGRATE_REASONS}
    return {value: name.lower() for name, value in _present(values).items()}


def _present(values: dict[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _nodes_shift(btf: Btf) -> int | None:
    """CONFIG_NODES_SHIFT from the size of a node mask. A mask of one word fits several shifts,
    so then it is not known, and the zone of a folio is not named."""
    size = btf.size("nodemask_t")
    if size is None or size <= 8:
        return None
    return (size * 8).bit_length() - 1


def pageblock_bits(btf: Btf) -> int | None:
    """Bits for each pageblock: 4, from v6.17 8 (the enumerator rounded up to a power of two)."""
    count = btf.enumerator("NR_PAGEBLOCK_BITS") or btf.enumerator("__NR_PAGEBLOCK_BITS")
    return None if count is None else 1 << (count - 1).bit_length()


def wanted_symbols() -> frozenset[str]:
    """Every symbol that the tables of compat name."""
    hooks = frozenset(symbol for hook in compat.HOOKS for symbol in hook.symbols)
    batches = {batch.symbol for batch in compat.LRU_BATCHES}
    tables = (compat.DATA_SYMBOLS, compat.CMA_SYMBOLS, compat.A_OPS, compat.REFUSING_OPS)
    return hooks | batches | frozenset().union(*tables)


def possible_cpus(sysfs: Path) -> int:
    """One more than the highest CPU there may ever be: how many values a per-CPU map has."""
    text = (sysfs / "devices/system/cpu/possible").read_text().strip()
    return int(text.replace("-", ",").split(",")[-1]) + 1


# include/uapi/linux/capability.h: bit, name, what needs it.
_SYS_ADMIN = 21
_TO_RUN = (
    (39, "CAP_BPF", "load programs and maps"),
    (38, "CAP_PERFMON", "attach tracing programs"),
)
_TO_LOOK = (
    (19, "CAP_SYS_PTRACE", "read what lies where in a process"),
    (2, "CAP_DAC_READ_SEARCH", "open the files of other users' processes"),
)


def missing_capabilities(procfs: Path) -> list[str]:
    """What this process lacks to run, each with its use. CAP_SYS_ADMIN stands for both."""
    return [] if _held(procfs) >> _SYS_ADMIN & 1 else _missing(procfs, _TO_RUN)


def missing_to_look(procfs: Path) -> list[str]:
    """What it lacks to look at VMs' memory and open devices; CAP_SYS_ADMIN is no help there."""
    return _missing(procfs, _TO_LOOK)


def _missing(procfs: Path, wanted: tuple[tuple[int, str, str], ...]) -> list[str]:
    held = _held(procfs)
    return [f"{name} ({use})" for bit, name, use in wanted if not held >> bit & 1]


def _held(procfs: Path) -> int:
    return int((procfs / "self/status").read_text().partition("CapEff:")[2].split()[0], 16)


def probe(*, procfs: Path, sysfs: Path) -> KernelProbe:
    """Ask the running kernel. CannotRunError when it has no BTF, or we have no right to trace."""
    missing = missing_capabilities(procfs)
    if missing:
        raise CannotRunError(
            f"missing capabilities: {', '.join(missing)}",
            hint="run as root, or give the unit these capabilities",
        )
    btf = read_btf(sysfs)
    symbols = read_symbols(procfs, wanted_symbols())
    return KernelProbe(
        facts=make_facts(btf, symbols, os.uname().release),
        plan=make_plan(btf, symbols),
        btf=btf,
        symbols=symbols,
        cpus=possible_cpus(sysfs),
    )
