"""Look at what pinwatch needs of a host, one thing at a time, and say what each lack costs.

Takes roots; gives Check values, in an order in which the first failure explains the later ones.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pinwatch.errors import CannotRunError
from pinwatch.host import probe
from pinwatch.host.bpf import Probes
from pinwatch.host.netlink import Listener
from pinwatch.model.kernel import HookState, Mode


class Verdict(StrEnum):
    OK = "ok"
    LIMITED = "limited"  # a piece is off, the rest works
    FAILED = "failed"  # pinwatch cannot run


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def all_checks(*, procfs: Path, sysfs: Path, bpf_dir: Path) -> list[Check]:
    """Every check, cheap ones first; the last ones load, attach and subscribe for real."""
    found = [
        kernel(),
        capabilities(procfs),
        memory(procfs),
        lockdown(sysfs),
        btf(sysfs),
        addresses(procfs),
        kprobes(sysfs),
        compiler(),
    ]
    return [*found, *programs(procfs=procfs, sysfs=sysfs, bpf_dir=bpf_dir), *events()]


def kernel() -> Check:
    name = os.uname()
    detail = f"{name.release} on {name.machine}"
    if name.machine != "x86_64":
        return Check(
            name="kernel",
            verdict=Verdict.FAILED,
            detail=f"{detail}: pinwatch reads x86-64 kernels only",
            remedy="run it on an x86-64 host",
        )
    return Check(name="kernel", verdict=Verdict.OK, detail=detail)


def capabilities(procfs: Path) -> Check:
    missing = probe.missing_capabilities(procfs)
    if missing:
        return Check(
            name="capabilities",
            verdict=Verdict.FAILED,
            detail="missing: " + ", ".join(missing),
            remedy="run as root, or give the unit these capabilities",
        )
    return Check(name="capabilities", verdict=Verdict.OK, detail="all that are needed")


def memory(procfs: Path) -> Check:
    missing = probe.missing_to_look(procfs)
    if missing:
        return Check(
            name="VMs' memory",
            verdict=Verdict.LIMITED,
            detail=f"missing: {', '.join(missing)}: no placement, no forecast, devices only as "
            "command lines name them",
            remedy="run as root, or give the unit these capabilities",
        )
    return Check(name="VMs' memory", verdict=Verdict.OK, detail="may be looked at")


def lockdown(sysfs: Path) -> Check:
    try:
        text = (sysfs / "kernel/security/lockdown").read_text()
    except OSError:
        return Check(name="lockdown", verdict=Verdict.OK, detail="this kernel has none")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        return Check(
            name="lockdown",
            verdict=Verdict.FAILED,
            detail="confidentiality mode: the kernel lets no program read its memory",
            remedy="boot with lockdown=integrity, which Secure Boot needs at most",
        )
    return Check(name="lockdown", verdict=Verdict.OK, detail=mode)


def btf(sysfs: Path) -> Check:
    try:
        probe.read_btf(sysfs)
    except CannotRunError as error:
        return Check(name="BTF", verdict=Verdict.FAILED, detail=error.message, remedy=error.hint)
    return Check(name="BTF", verdict=Verdict.OK, detail="the kernel describes its own types")


def addresses(procfs: Path) -> Check:
    found = probe.read_symbols(procfs, frozenset({"vmemmap_base"}))
    if not found.get("vmemmap_base"):
        return Check(
            name="addresses",
            verdict=Verdict.LIMITED,
            detail="the kernel hides its addresses: frame numbers and CMA are not told",
            remedy="run as root with CAP_SYSLOG, kernel.kptr_restrict below 2, a readable kallsyms",
        )
    return Check(name="addresses", verdict=Verdict.OK, detail="kernel symbols are visible")


def kprobes(sysfs: Path) -> Check:
    if (sysfs / "bus/event_source/devices/kprobe/type").exists():
        return Check(name="kprobes", verdict=Verdict.OK, detail="available")
    return Check(
        name="kprobes",
        verdict=Verdict.LIMITED,
        detail="this kernel has none: VFIO maps are seen as plain pins, without their errno",
        remedy="boot a kernel with CONFIG_KPROBE_EVENTS=y",
    )


def compiler() -> Check:
    """Is bcc there? Looked up, not imported: it would bring LLVM into this process."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None or not Path(spec.origin).with_name("libbcc.py").exists():
        return Check(
            name="bcc",
            verdict=Verdict.FAILED,
            detail="the BPF compiler is not installed for this Python",
            remedy="apt install python3-bpfcc (not PyPI's bcc), and use the distribution's Python",
        )
    return Check(name="bcc", verdict=Verdict.OK, detail=str(Path(spec.origin).parent))


def programs(*, procfs: Path, sysfs: Path, bpf_dir: Path) -> Iterator[Check]:
    """Load and attach everything, say for each hook what it shows, and take it away again."""
    try:
        probes = Probes(bpf_dir=bpf_dir, procfs=procfs, sysfs=sysfs)
    except (CannotRunError, OSError) as error:
        yield Check(
            name="programs",
            verdict=Verdict.FAILED,
            detail=str(error),
            remedy=getattr(error, "hint", "") or "the first failure above is the likely cause",
        )
        return
    try:
        yield from _attached(probes)
    finally:
        probes.close()


def _attached(probes: Probes) -> Iterator[Check]:
    try:
        probes.attach()
    except CannotRunError as error:
        yield Check(
            name="programs", verdict=Verdict.FAILED, detail=error.message, remedy=error.hint
        )
    yield from map(_hook, probes.states)


def events() -> Iterator[Check]:
    """Subscribe to what the kernel tells by itself, see whether it does, and end that."""
    listener = Listener()
    listener.close()
    yield from map(_hook, listener.states)


def _hook(state: HookState) -> Check:
    remedy = ""
    if state.attached and state.reason:
        detail, verdict = f"{state.sees}: {state.reason}", Verdict.LIMITED
        remedy = "have tracefs mounted on /sys/kernel/tracing, where pinwatch may write"
    elif state.attached:
        detail, verdict = f"{state.sees}: {state.mode} on {state.symbol}", Verdict.OK
    elif state.mode is Mode.WAITING:
        detail, verdict = f"{state.sees}: attaches by itself later ({state.reason})", Verdict.OK
    else:
        detail, verdict = f"not seen: {state.sees} ({state.reason})", Verdict.LIMITED
    return Check(name=f"hook {state.hook}", verdict=verdict, detail=detail, remedy=remedy)
