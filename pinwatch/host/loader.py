"""Compile and load the BPF programs in a process of its own, and hand over the descriptors.

host/bpf.py runs it with FD BPF_DIR PROC SYS; FD is a Unix socket to the daemon. The compiler (bcc,
LLVM, some 100 MB) lives and dies here; what it made stays, held by descriptors. Only this module
imports bcc.
"""

from __future__ import annotations

import ctypes as ct
import errno
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pinwatch.errors import CannotRunError
from pinwatch.host import cma, headers, syscalls
from pinwatch.host.probe import KernelProbe, PlannedHook, lru_batches, probe
from pinwatch.model.kernel import CmaAreas, Mode

MAPS = (
    "events", "losses", "witnesses", "durations", "totals", "limits", "frames", "migrations",
    "split_errors", "cma_failures", "lru_batches",
)  # fmt: skip
FDS_PER_MESSAGE = 200  # the kernel takes 253 (SCM_MAX_FD)
_NAMES_MODULES = (0, 28)  # since then bcc aborts on kfunc__X (src/cc/libbpf.c: mod_end)


def fentry_of(bcc_version: str) -> str:
    """What this bcc wants between kfunc__ and the name of a function of the kernel itself."""
    numbers = re.findall(r"\d+", bcc_version)[:2]
    return "vmlinux__" if tuple(map(int, numbers)) >= _NAMES_MODULES else ""


def compile_programs(text: str, tree: Path) -> Any:
    """A bcc module made from `text`; nothing is loaded or attached yet."""
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    try:
        from bcc import BPF, __version__
    except ImportError as error:
        raise CannotRunError(
            f"the BPF compiler bcc is not usable: {error}",
            hint="install the distribution's package: apt install python3-bpfcc (not PyPI's bcc)",
        ) from None

    where = fentry_of(__version__)

    class Module(BPF):  # type: ignore[misc]
        fentry_of = where

        def _trace_autoload(self) -> None:
            """bcc would attach by name here; the daemon attaches, so that links are its own."""

    try:
        return Module(text=text, cflags=[f"-DFENTRY_OF={where}"])
    except Exception as error:  # bcc raises bare Exception, for a map that it may not make as well
        if refusal := syscalls.bpf_refused():
            raise CannotRunError(
                f"bpf(2) is refused: {refusal.strerror}",
                hint="a seccomp filter of the container or of the unit forbids it: let it pass",
            ) from None
        raise CannotRunError(
            f"the BPF programs do not compile for this kernel: {error}",
            hint="run with --debug to see the compiler's words, and report them",
        ) from None


def load_program(module: Any, name: str, mode: Mode) -> int:
    """Descriptor of a loaded program, or OSError with the kernel's errno."""
    types = {
        Mode.RAW_TRACEPOINT: module.RAW_TRACEPOINT,
        Mode.FENTRY: module.TRACING,
        Mode.KPROBE: module.KPROBE,
    }
    if mode is Mode.FENTRY:
        name = name.replace("func__", f"func__{module.fentry_of}", 1)
    ct.set_errno(0)
    try:
        return int(module.load_func(name, types[mode]).fd)
    except Exception as error:  # bcc raises bare Exception
        number = ct.get_errno() or errno.EINVAL
        number = (
            errno.EINVAL if number == errno.EACCES else number
        )  # OSError makes EACCES EPERM's kin
        raise OSError(number, os.strerror(number)) from error


def load_hook(module: Any, planned: PlannedHook, mode: Mode) -> list[int]:
    """The loaded programs of a hook in a mode. OSError when one is refused, or its link is: a
    program that loads can still be denied a trampoline."""
    fds = [load_program(module, n, mode) for n in planned.hook.programs(planned.symbol, mode)]
    if mode is Mode.FENTRY:
        for fd in fds:
            os.close(syscalls.attach_tracing(fd))
    return fds


def load_or_refuse(
    module: Any, plan: Iterable[PlannedHook]
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """By hook name: the programs that loaded, and why the others did not."""
    loaded, refused = {}, {}
    for planned in plan:
        if not planned.modes:
            continue
        mode = planned.modes[0]
        try:
            loaded[planned.hook.name] = load_hook(module, planned, mode)
        except PermissionError:
            # never about one program: the verifier's refusals are EINVAL, EACCES, E2BIG
            raise CannotRunError(
                "this kernel refuses tracing programs (EPERM)",
                hint="it is locked down, or a container forbids it; `make demo` in a checkout "
                "shows pinwatch in a guest with a kernel of its own",
            ) from None
        except OSError as error:
            refused[planned.hook.name] = f"{mode}: {error.strerror}"
    return loaded, refused


def map_descriptor(module: Any, name: str) -> int | None:
    """None for a map that this kernel has no use for: it was not compiled."""
    try:
        return int(module[name].map_fd)
    except KeyError:
        return None


def peek(module: Any, program: int, address: int, size: int) -> bytes:
    """Kernel memory. OSError where it cannot be read."""
    if not syscalls.run_program(program, address):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return syscalls.read_slot(module["peeked"].map_fd, 0, headers.PEEK_SIZE)[:size]


def read_cma(module: Any, kernel: KernelProbe) -> CmaAreas | None:
    """None where the kernel does not say."""
    try:
        program = load_program(module, "tp_peek", Mode.RAW_TRACEPOINT)
    except OSError:
        return None
    return cma.read_areas(partial(peek, module, program), kernel.btf, kernel.symbols)


def next_modes(plan: Iterable[PlannedHook], refused: dict[str, str]) -> tuple[PlannedHook, ...]:
    """The plan with each refused hook in its next mode, or off, with the reason so far."""
    return tuple(
        replace(
            planned,
            modes=planned.modes[1:],
            reason="; ".join(filter(None, (planned.reason, refused[planned.hook.name]))),
        )
        if planned.hook.name in refused
        else planned
        for planned in plan
    )


def load_all(kernel: KernelProbe, bpf_dir: Path, tree: Path) -> tuple[dict[str, Any], list[int]]:
    """The message for the daemon, and the descriptors it refers to by index.

    Compiles again, without what was refused, until all that is compiled loads: rare, and better
    than compiling every mode of every hook each time.
    """
    while True:
        module = compile_programs(headers.program_text(kernel, bpf_dir), tree)
        loaded, refused = load_or_refuse(module, kernel.plan)
        if not refused:
            break
        kernel = replace(kernel, plan=next_modes(kernel.plan, refused))
    fds: list[int] = []

    def keep(new: list[int]) -> list[int]:
        fds.extend(new)
        return list(range(len(fds) - len(new), len(fds)))

    hooks = [
        {
            "hook": planned.hook.name,
            "symbols": planned.symbols,
            "mode": planned.modes[0] if planned.modes else Mode.OFF,
            "programs": keep(loaded.get(planned.hook.name, [])),
            "reason": planned.reason,
        }
        for planned in kernel.plan
    ]
    maps = {
        name: keep([fd])[0] for name in MAPS if (fd := map_descriptor(module, name)) is not None
    }
    message = {
        "facts": asdict(replace(kernel.facts, cma_areas=read_cma(module, kernel))),
        "hooks": hooks,
        "maps": maps,
        "lru_batches": [address for _, address in lru_batches(kernel.btf, kernel.symbols)],
    }
    return message, fds


def send(channel: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    """The message as one line of JSON, then the descriptors in portions."""
    channel.sendall(json.dumps(message).encode() + b"\n")
    for start in range(0, len(fds), FDS_PER_MESSAGE):
        socket.send_fds(channel, [b"F"], fds[start : start + FDS_PER_MESSAGE])


def main(fd: int, bpf_dir: Path, procfs: Path, sysfs: Path) -> None:
    channel = socket.socket(fileno=fd)
    try:
        kernel = probe(procfs=procfs, sysfs=sysfs)
        with tempfile.TemporaryDirectory(prefix="pinwatch-") as tree:
            headers.write_tree(Path(tree))
            message, fds = load_all(kernel, bpf_dir, Path(tree))
    except CannotRunError as error:
        message, fds = {"error": error.message, "hint": error.hint}, []
    send(channel, message, fds)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
