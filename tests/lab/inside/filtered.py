"""Run a command whose bpf(2) fails with EPERM: `python -m tests.lab.inside.filtered COMMAND...`."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_BPF = 321  # the system call's number, on x86-64
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000

# struct sock_filter: code, jump if true, jump if false, k
_FILTER = (
    (0x20, 0, 0, 0),  # load the number of the system call
    (0x15, 0, 1, _BPF),  # if it is another, go past the next
    (0x06, 0, 0, _ERRNO | errno.EPERM),  # return
    (0x06, 0, 0, _ALLOW),
)


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main(command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("=HBBI", *step) for step in _FILTER)
    program = ctypes.byref(_Program(len(_FILTER), code))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
