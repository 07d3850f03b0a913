"""The few kernel calls behind loaded programs: attach, read maps, read the ring buffer.

Takes descriptors; gives values or OSError. Maps and the ring buffer go through the system's libbpf
(bcc depends on it, so it is there); kprobes through perf_event_open(2), because libbpf attaches
them only to programs that it loaded itself. Neither loads a compiler into this process.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_LIBBPF = ("libbpf.so.1", "libbpf.so.0")
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_EVENT_IOC_SET_BPF = 0x40042408
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_TYPE_TRACEPOINT = 2
_RECURSION_MISSES, _PROG_INFO_SIZE = 208, 216  # struct bpf_prog_info up to that field

_SampleFn = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)


@cache
def _libbpf() -> ct.CDLL:
    for name in _LIBBPF:
        try:
            lib = ct.CDLL(name, use_errno=True)
            break
        except OSError:
            continue
    else:
        raise OSError(errno.ENOENT, "libbpf is not installed")
    lib.ring_buffer__new.restype = ct.c_void_p
    lib.ring_buffer__new.argtypes = (ct.c_int, _SampleFn, ct.c_void_p, ct.c_void_p)
    for name in ("ring_buffer__consume", "ring_buffer__epoll_fd"):
        getattr(lib, name).argtypes = (ct.c_void_p,)
    lib.ring_buffer__free.argtypes = (ct.c_void_p,)
    return lib


def _checked(result: int) -> int:
    """libbpf gives -errno since 1.0, -1 and errno before."""
    if result < 0:
        number = ct.get_errno() or -result
        raise OSError(number, os.strerror(number))
    return result


def attach_tracing(program: int, tracepoint: str = "") -> int:
    """Link an fentry/fexit program (it knows its function), or a raw tracepoint program."""
    name = tracepoint.encode() or None
    return _checked(_libbpf().bpf_raw_tracepoint_open(name, program))


def bpf_refused() -> OSError | None:
    """Why bpf(2) itself is refused to this process, by a filter for instance; None: it is not."""
    key = ct.c_uint64(0)
    try:
        _checked(_libbpf().bpf_map_lookup_elem(-1, ct.byref(key), ct.byref(key)))
    except OSError as error:
        return None if error.errno == errno.EBADF else error
    return None


class _PerfEventAttr(ct.Structure):
    """struct perf_event_attr as of PERF_ATTR_SIZE_VER1: what a kprobe needs."""

    _fields_ = (
        ("type", ct.c_uint32),
        ("size", ct.c_uint32),
        ("config", ct.c_uint64),
        ("sample_period", ct.c_uint64),
        ("sample_type", ct.c_uint64),
        ("read_format", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("wakeup_events", ct.c_uint32),
        ("bp_type", ct.c_uint32),
        ("kprobe_func", ct.c_uint64),
        ("probe_offset", ct.c_uint64),
    )


def attach_kprobe(program: int, symbol: str, *, on_return: bool, sysfs: Path) -> int:
    """Attach through the kprobe PMU (v4.17, e12f03d7031a): gone when the descriptor is closed, so a
    killed daemon leaves nothing behind. OSError ENOENT while the symbol does not exist."""
    pmu = sysfs / "bus/event_source/devices/kprobe"
    if not pmu.exists():  # which is not ENOENT: that would be taken for a module that is to come
        raise OSError(errno.EOPNOTSUPP, "this kernel has no kprobes")
    retprobe_bit = int((pmu / "format/retprobe").read_text().strip().removeprefix("config:"))
    name = ct.create_string_buffer(symbol.encode())
    attr = _PerfEventAttr(
        type=int((pmu / "type").read_text()),
        config=int(on_return) << retprobe_bit,
        kprobe_func=ct.addressof(name),
    )
    return _attach_perf(program, attr)


def attach_event(program: int, event: int) -> int:
    """Attach to an event of tracefs, by its number."""
    return _attach_perf(program, _PerfEventAttr(type=_PERF_TYPE_TRACEPOINT, config=event))


def _attach_perf(program: int, attr: _PerfEventAttr) -> int:
    attr.size, attr.sample_period, attr.wakeup_events = ct.sizeof(attr), 1, 1
    libc = ct.CDLL(None, use_errno=True)
    number = _SYS_PERF_EVENT_OPEN[os.uname().machine]
    fd = _checked(libc.syscall(number, ct.byref(attr), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC))
    try:
        fcntl.ioctl(fd, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_per_cpu(map_fd: int, index: int, value: type[ct.Structure], cpus: int) -> list[bytes]:
    """One slot of a per-CPU array: the bytes of each CPU."""
    width = (ct.sizeof(value) + 7) // 8 * 8
    key = ct.c_uint32(index)
    buffer = ct.create_string_buffer(width * cpus)
    _checked(_libbpf().bpf_map_lookup_elem(map_fd, ct.byref(key), buffer))
    return [buffer.raw[i * width : i * width + ct.sizeof(value)] for i in range(cpus)]


def read_hash(
    map_fd: int, key: type[ct.Structure], value: type[ct.Structure]
) -> Iterator[tuple[bytes, bytes]]:
    """All pairs of a hash map, each once. A key deleted while we walk is passed over; when it is
    the one that we are at, the kernel begins again with the first."""
    lib = _libbpf()
    last: ct.Array[ct.c_char] | None = None
    given: set[bytes] = set()
    while True:
        following = ct.create_string_buffer(ct.sizeof(key))
        if lib.bpf_map_get_next_key(map_fd, last, following) < 0:
            return
        last = following
        if following.raw in given:
            continue
        found = ct.create_string_buffer(ct.sizeof(value))
        if lib.bpf_map_lookup_elem(map_fd, following, found) == 0:
            given.add(following.raw)
            yield following.raw, found.raw


def read_slot(map_fd: int, index: int, size: int) -> bytes:
    """One slot of an array map."""
    key = ct.c_uint32(index)
    buffer = ct.create_string_buffer(size)
    _checked(_libbpf().bpf_map_lookup_elem(map_fd, ct.byref(key), buffer))
    return buffer.raw


class _TestRunOptions(ct.Structure):
    """struct bpf_test_run_opts of libbpf 0.4 and later."""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    )


def run_program(program: int, argument: int) -> int:
    """Run a raw tracepoint's program once, here and now (v5.10, 1b4d60ec162f); what it returns."""
    context = ct.c_uint64(argument)
    options = _TestRunOptions(
        sz=ct.sizeof(_TestRunOptions), ctx_in=ct.addressof(context), ctx_size_in=8
    )
    _checked(_libbpf().bpf_prog_test_run_opts(program, ct.byref(options)))
    return int(options.retval)


def write_slot(map_fd: int, index: int, value: bytes) -> None:
    """Set one slot of an array map."""
    key = ct.c_uint32(index)
    _checked(_libbpf().bpf_map_update_elem(map_fd, ct.byref(key), value, ct.c_uint64(0)))


def delete_key(map_fd: int, key: bytes) -> None:
    """Remove a key; one that is gone already is fine."""
    _libbpf().bpf_map_delete_elem(map_fd, key)


def program_misses(program: int) -> int:
    """recursion_misses of struct bpf_prog_info (v5.12, 9ed9e9ba2337). Those of kprobes count since
    v6.7 (dd8657894c11)."""
    info = ct.create_string_buffer(_PROG_INFO_SIZE)
    size = ct.c_uint32(_PROG_INFO_SIZE)
    _checked(_libbpf().bpf_obj_get_info_by_fd(program, info, ct.byref(size)))
    return int.from_bytes(info.raw[_RECURSION_MISSES:_PROG_INFO_SIZE], "little")


class RingBuffer:
    """The consumer's end of a BPF ring buffer; `take` gives what has arrived."""

    def __init__(self, map_fd: int) -> None:
        self._arrived: list[bytes] = []
        self._callback = _SampleFn(self._keep)  # the C side holds no reference to it
        self._ring: int | None = _libbpf().ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise OSError(ct.get_errno(), "cannot map the ring buffer")

    def _keep(self, _context: int, data: int, size: int) -> int:
        self._arrived.append(ct.string_at(data, size))
        return 0

    def fileno(self) -> int:
        """Readable when records wait."""
        return int(_libbpf().ring_buffer__epoll_fd(self._ring))

    def take(self) -> list[bytes]:
        """The records that wait, oldest first; never blocks."""
        _libbpf().ring_buffer__consume(self._ring)
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        if self._ring:
            _libbpf().ring_buffer__free(self._ring)
            self._ring = None
