"""Run a program, and reap what it leaves behind: `python -m tests.lab.inside.reaper libvirtd`.

libvirt kills a QEMU that is no child of its own and waits until its number is free, which takes
somebody who reaps orphans; the first process of a guest does not.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    program = subprocess.Popen(command)
    while True:
        pid, status = os.wait()
        if pid == program.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
