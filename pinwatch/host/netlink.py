"""What the kernel tells at once: processes that start and end, drivers that take a device.

Takes nothing; gives events. Process events are told only in the host's own network and pid
namespaces, and only with CAP_NET_ADMIN: without them this one thing is off, with the reason.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pinwatch.host.pyroute2_parts import (
    MONITOR_GROUP_KERNEL,
    NLMSG_DONE,
    UeventSocket,
    cn_proc,
)
from pinwatch.model.kernel import HookState, Mode

_NEEDS = "needs CAP_NET_ADMIN, and the first network and pid namespaces"
_ANSWER_MS = 1000
_RECEIVE_BYTES = 65536
_BUFFER_BYTES = 2 << 20  # a thousand processes a second, unread for two seconds
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Executed:
    """A process runs another program now."""

    tgid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The first thread of a process is gone, as a rule with all others."""

    tgid: int


@dataclass(frozen=True, slots=True)
class DriverChanged:
    """A device was bound to a driver, or let go."""

    driver: str


@dataclass(frozen=True, slots=True)
class ModuleAdded:
    """A kernel module is there."""

    name: str


@dataclass(frozen=True, slots=True)
class Overrun:
    """More happened than the socket holds (ENOBUFS): some of it was not told."""


News = Executed | Exited | DriverChanged | ModuleAdded | Overrun


class Listener:
    """Both sockets; one that cannot be had is off."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self.states = tuple(self._open(name, *how) for name, how in _SOURCES.items())

    def _open(self, name: str, make: Callable[[], _Source], symbol: str, sees: str) -> HookState:
        try:
            self._sources[name] = make()
        except OSError as error:
            reason = error.strerror or str(error)
            return HookState(hook=name, symbol=symbol, mode=Mode.OFF, reason=reason, sees=sees)
        return HookState(hook=name, symbol=symbol, mode=Mode.NETLINK, sees=sees)

    @property
    def tells_processes(self) -> bool:
        return PROCESS_EVENTS in self._sources

    @property
    def filenos(self) -> tuple[int, ...]:
        """Readable when there is news."""
        return tuple(source.fileno() for source in self._sources.values())

    def take(self) -> Iterator[News]:
        """What has arrived; never blocks."""
        for source in self._sources.values():
            yield from source.take()

    def close(self) -> None:
        for source in self._sources.values():
            source.close()


class _Source:
    """A bound socket of pyroute2. It is read as it stands: what pyroute2 waits with is an event
    loop, and ours waits for more than this."""

    def __init__(self, sock: Any, read: Callable[[Any], News | None]) -> None:
        self._sock = sock
        self._read = read

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def take(self) -> Iterator[News]:
        while True:
            try:
                data = self._sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield Overrun()
                continue
            for message in self._sock.marshal.parse(data):
                news = self._read(message)
                if news is not None:
                    yield news

    def close(self) -> None:
        self._sock.close()


def _process_events() -> _Source:
    """Of the proc connector (drivers/connector/cn_proc.c): starts, and ends of first threads."""
    sock = cn_proc.ProcEventSocket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        _filter(sock)
        _bind(sock)
        _subscribe(sock)
    except OSError:
        sock.close()
        raise
    return _Source(sock, _process_event)


def _bind(sock: Any) -> None:
    try:
        sock.bind()
    except KeyError:  # after 180 refusals, whatever they were for
        raise PermissionError(errno.EPERM, _NEEDS) from None


def _subscribe(sock: Any) -> None:
    """Ask, and see whether we are told of an end. The kernel's own answer comes from some versions
    only, and from none in another namespace, for which pyroute2's control() would wait for ever."""
    message = cn_proc.proc_event_control()
    message["action"] = cn_proc.PROC_CN_MCAST_LISTEN
    message["idx"], message["val"], message["len"] = cn_proc.CN_IDX_PROC, cn_proc.CN_VAL_PROC, 4
    sock.put(message, NLMSG_DONE, msg_flags=0, msg_seq=0)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    arrived = select.poll()
    arrived.register(sock.fileno(), select.POLLIN)
    while arrived.poll(_ANSWER_MS):
        events = map(_process_event, sock.marshal.parse(sock.recv(_RECEIVE_BYTES)))
        if Exited(child) in events:
            return
    raise PermissionError(errno.EPERM, _NEEDS)


def _process_event(message: Any) -> News | None:
    match message.get("what"):  # one of a kind that pyroute2 does not know has none
        case cn_proc.PROC_EVENT_EXEC:
            return Executed(message["process_tgid"])
        case cn_proc.PROC_EVENT_EXIT:
            return Exited(message["process_tgid"])
    return None


def _uevents() -> _Source:
    """Of the kernel itself (lib/kobject_uevent.c): the group of udev needs udev."""
    sock = UeventSocket()
    try:
        sock.bind(groups=MONITOR_GROUP_KERNEL)
    except (OSError, KeyError) as error:
        sock.close()
        raise PermissionError(errno.EPERM, "not allowed here") from error
    return _Source(sock, _uevent)


def _uevent(message: Any) -> News | None:
    action, subsystem = message.get("ACTION"), message.get("SUBSYSTEM")
    if action in ("bind", "unbind"):
        return DriverChanged(message.get("DRIVER", ""))
    if (action, subsystem) == ("add", "module"):
        return ModuleAdded(message.get("DEVPATH", "").rpartition("/")[2])
    return None


def _filter(sock: Any) -> None:
    """Have the kernel not even queue forks and ends of threads, by far the most. Offsets are those
    of struct proc_event behind nlmsghdr and cn_msg; the load turns words from network order."""
    load, to_x, if_equal, if_equal_x, give = 0x20, 0x07, 0x15, 0x1D, 0x06  # linux/bpf_common.h
    program = (
        (load, 0, 0, 36),  # what
        (if_equal, 5, 0, socket.htonl(cn_proc.PROC_EVENT_EXEC)),
        (if_equal, 0, 5, socket.htonl(cn_proc.PROC_EVENT_EXIT)),
        (load, 0, 0, 52),  # process_pid
        (to_x, 0, 0, 0),
        (load, 0, 0, 56),  # process_tgid
        (if_equal_x, 0, 1, 0),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    )
    code = ct.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    fprog = struct.pack("@HP", len(program), ct.addressof(code))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


PROCESS_EVENTS = "process_events"
_SOURCES: dict[str, tuple[Callable[[], _Source], str, str]] = {
    PROCESS_EVENTS: (_process_events, "cn_proc", "starts and ends of VMs, before their first pin"),
    "device_events": (_uevents, "kobject_uevent", "devices that VFIO drivers take"),
}
