"""Generate what bcc needs to compile for the running kernel without its headers.

Takes a KernelProbe; gives the text in front of bpf/*.c and the small tree that stands in for
kernel headers (bcc includes these files by name). Structures have just the fields that
compat.FIELDS names, each at the offset that BTF gives.
"""

from __future__ import annotations

from pathlib import Path

from pinwatch.abi.layout import static_assertions
from pinwatch.host import compat
from pinwatch.host.btf import Btf
from pinwatch.host.probe import (
    KernelProbe,
    PlannedHook,
    lru_batch_size,
    lru_batches,
    pageblock_bits,
)

PEEK_SIZE = 1024  # bytes of kernel memory for one look: a struct cma has 160, or 632 since v6.15
_SCALARS = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}

_TYPES = """\
typedef unsigned char u8, __u8;
typedef unsigned short u16, __u16;
typedef unsigned int u32, __u32;
typedef unsigned long long u64, __u64;
typedef signed char s8, __s8;
typedef short s16, __s16;
typedef int s32, __s32;
typedef long long s64, __s64;
typedef _Bool bool;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef __u16 __be16, __le16, __sum16;
typedef __u32 __be32, __le32, __wsum;
typedef __u64 __be64, __le64;
typedef unsigned long size_t, uintptr_t;
typedef int pid_t;
#define true 1
#define false 0
#define NULL ((void *)0)
#define PAGE_SIZE 4096
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
"""

# Only asked whether helpers of v4.8 and later are there.
_VERSION = """\
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 13, 0)
"""

# bcc names these files itself (src/cc/frontends/clang/kbuild_helper.cc and its own headers).
_TREE = {
    "include/linux/kconfig.h": "#define BITS_PER_LONG 64\n#define CONFIG_BPF_SYSCALL 1\n",
    "include/linux/types.h": _TYPES,
    "include/linux/bpf_common.h": "",
    "include/linux/version.h": _VERSION,
    "include/linux/log2.h": "",
    "include/uapi/linux/bpf.h": "",  # bcc has its own, included first
    "include/uapi/linux/if_packet.h": "",
    "include/uapi/linux/ptrace.h": "",
    "include/asm/page.h": "",
}


def write_tree(root: Path) -> None:
    """Write the header tree below root; BCC_KERNEL_SOURCE then names root."""
    for name, text in _TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def struct_text(btf: Btf, name: str, members: tuple[str, ...]) -> str:
    """A structure with the members this kernel has, each at its offset, and HAS_ macros."""
    views, macros = [], []
    for member in members:
        field = btf.field(name, member)
        if field is None:
            continue
        declared = _SCALARS.get(field.size)
        text = f"{declared} {member}" if declared else f"u8 {member}[{field.size}]"
        padding = f"u8 at_{member}[{field.offset}]; " if field.offset else ""
        packed = " __attribute__((packed))" if field.offset % min(field.size or 1, 8) else ""
        views.append(f"\tstruct {{ {padding}{text}; }}{packed};\n")
        macros.append(f"#define HAS_{name}_{member} 1\n")
    size = btf.size(name)
    if size is None:
        return f"struct {name};\n"
    body = "".join(views)
    return f"struct {name} {{ union {{\n{body}\tu8 whole[{size}];\n}}; }};\n" + "".join(macros)


def hook_macros(planned: PlannedHook) -> str:
    """The symbol, mode and number of arguments of a hook that is to be compiled."""
    if not planned.modes:
        return ""
    name = planned.hook.name
    text = f"#define SYM_{name} {planned.symbol}\n"
    text += f"#define MODE_{name} {planned.modes[0].name}\n"
    if planned.nr_args is not None:
        text += f"#define NARGS_{name} {planned.nr_args}\n"
    if name == "gup_longterm" and planned.nr_args:
        text += f"#define GUP_FLAGS_ARG {planned.nr_args - 1}\n"
    return text


def preamble(kernel: KernelProbe) -> str:
    """All generated text that stands before the project's own BPF source."""
    btf = kernel.btf
    parts = ["#include <linux/types.h>\n", f"#define PEEK_SIZE {PEEK_SIZE}\n"]
    parts += [struct_text(btf, name, members) for name, members in compat.FIELDS.items()]
    parts += [hook_macros(planned) for planned in kernel.plan]
    for name in compat.ENUMERATORS:
        value = btf.enumerator(name)
        if value is not None:
            parts.append(f"#define KERNEL_{name} {value}\n")
    for name in compat.DATA_SYMBOLS:
        if kernel.symbols.get(name):
            parts.append(f"#define ADDR_{name} {kernel.symbols[name]:#x}ULL\n")
    if (bits := pageblock_bits(btf)) is not None:
        parts.append(f"#define PAGEBLOCK_BITS {bits}\n")
    if (lru := btf.field("folio", "lru")) is not None:
        parts.append(f"#define FOLIO_LRU_OFFSET {lru.offset}\n")
    parts.append(_lru_batch_macros(kernel))
    return "".join(parts)


# The verifier follows the search over all CPUs, and gives up at a million instructions.
_MAX_SEARCHED_CPUS = 256


def _lru_batch_macros(kernel: KernelProbe) -> str:
    batches, size = lru_batches(kernel.btf, kernel.symbols), lru_batch_size(kernel.btf)
    if not batches or size is None:
        return ""
    return (
        f"#define NR_LRU_BATCHES {len(batches)}\n#define LRU_BATCH_SIZE {size}\n"
        f"#define LRU_BATCH_CPUS {min(kernel.cpus, _MAX_SEARCHED_CPUS)}\n"
    )


# In this order: the ABI, then what the programs share, then one file for each path.
SOURCES = (
    "pinwatch.h", "common.h", "compat.h", "task.h", "windows.h", "folio.h",
    "gup.c", "waits.c", "holders.c", "walks.c", "pipes.c", "migrate.c", "lru_batches.c", "split.c",
    "host.c", "hints.c", "peek.c",
    "vfio.c", "iommufd.c", "io_uring.c", "rdma.c", "af_xdp.c", "vdpa.c", "udmabuf.c", "sev.c",
    "module.c",
)  # fmt: skip


def program_text(kernel: KernelProbe, bpf_dir: Path) -> str:
    """The whole translation unit for bcc."""
    parts = [preamble(kernel)]
    for name in SOURCES:
        parts.append(f'#line 1 "{name}"\n' + (bpf_dir / name).read_text())
        if name == "pinwatch.h":
            parts.append('#line 1 "abi"\n' + static_assertions())
    return "\n".join(parts)
