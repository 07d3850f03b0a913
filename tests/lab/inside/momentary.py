"""A VMM that lives for three system calls: it maps one page into a VFIO container and ends.

Made of bytes, because nothing that has to be started by a dynamic linker, and no interpreter, ends
within 20 ms in emulation; and a compiler is not among what the lab needs. Layout: elf(5).
"""

from __future__ import annotations

import struct
from pathlib import Path

CONTAINER, MEMORY = 10, 11  # descriptors that it inherits
_START, _HEADERS = 0x400000, 64 + 56
_IOVA = 1 << 24


def write(path: Path) -> None:
    """An executable file whose exit status is the errno of the map."""
    # struct vfio_iommu_type1_dma_map: argsz, flags (read, write), vaddr, iova, size
    request = struct.pack("<IIQQQ", 32, 3, 0, _IOVA, 4096)
    at = _START + _HEADERS
    code = _code(at)
    image = _headers(at + len(request), _HEADERS + len(request) + len(code)) + request + code
    path.write_bytes(image)
    path.chmod(0o755)


def _code(request: int) -> bytes:
    """x86-64; `request` is the address of the structure for the map."""
    mmap = _load(rdi=0, rsi=4096, rdx=3, r10=1, r8=MEMORY, r9=0, rax=9)  # shared, to be written
    ioctl = _load(rdi=CONTAINER, rsi=0x3B71, rdx=request, rax=16)  # VFIO_IOMMU_MAP_DMA
    syscall = b"\x0f\x05"
    store_vaddr = b"\x48\x89\x04\x25" + struct.pack("<I", request + 8)  # mov [request + 8], rax
    negate = b"\xf7\xd8\x89\xc7"  # neg eax; mov edi, eax
    return mmap + syscall + store_vaddr + ioctl + syscall + negate + _load(rax=60) + syscall  # exit


def _load(**registers: int) -> bytes:
    """`mov` of a constant into each register's lower half, which clears the upper one."""
    opcodes = {
        "rax": b"\xb8", "rdx": b"\xba", "rsi": b"\xbe", "rdi": b"\xbf",
        "r8": b"\x41\xb8", "r9": b"\x41\xb9", "r10": b"\x41\xba",
    }  # fmt: skip
    return b"".join(opcodes[name] + struct.pack("<I", n) for name, n in registers.items())


def _headers(entry: int, size: int) -> bytes:
    """ELF header, and one program header that loads the whole file, to be written and executed."""
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    return elf + struct.pack("<IIQQQQQQ", 1, 7, 0, _START, _START, size, size, 4096)
