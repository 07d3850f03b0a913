"""The guest's part of `make demo`: a host with a daemon, a VM that does not start, and the reason.

Everything is real: the daemon, QEMU, the device, the page that cannot move. Each line goes to the
user's terminal as it happens.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.lab import channel
from tests.lab.inside import host, vfio
from tests.lab.inside.scenarios import WITNESSES

RAM, MIB = "/dev/shm/web-01", 128


def say(text: str = "") -> None:
    channel.send("say", text=text)


def show_metrics() -> None:
    """The series of web-01 that are not 0."""
    time.sleep(1)  # the next reading of the kernel's counters
    for line in host.get("/metrics").splitlines():
        if 'vm="web-01"' in line and not line.endswith(" 0.0"):
            say(f"  {line}")


def show_reconciliation(before: dict[str, int]) -> None:
    """The kernel's own counters, and what pinwatch's sums differ from them by."""
    after, ours = host.vmstat(), host.metrics()
    for name in WITNESSES:
        grown = after[name] - before[name]
        series = f'pinwatch_kernel_reconciliation_pages{{counter="{name}"}}'
        if grown and series in ours:
            say(f"  {name:<24} +{grown:<8} pinwatch minus kernel: {ours[series]:.0f}")


def main() -> int:
    say("Starting the daemon: it reads this kernel's types, compiles and attaches its programs.")
    daemon = host.Daemon()
    say(f"Ready after {daemon.ready_s:.0f} s (emulated; the compiler needs 1 to 2 s natively).")
    vfio.load_modules()
    vfio.bind_edu()
    before = host.vmstat()
    say(f"A guest file of {MIB} MiB is populated; some process keeps one page of it in a pipe.")
    with host.running_workload("hold_file", path=RAM, mib=MIB, offset=61 << 20):
        say("Starting a real QEMU, VM web-01, with a VFIO device ...")
        done = host.qemu(name="web-01", ram_file=RAM, mib=MIB, bdf=vfio.find_edu().name)
    Path(RAM).unlink()
    say()
    say(f"QEMU is gone (exit code {done.returncode}). This is all that it said:")
    for line in done.stderr.decode(errors="replace").strip().splitlines():
        say(f"  {line}")
    say()
    say("$ pinwatch why web-01")
    for line in host.why("web-01").rstrip().splitlines():
        say(line)
    say()
    say("$ curl -s localhost:19816/metrics        (series of web-01 above 0)")
    show_metrics()
    say()
    say("The kernel's own counters in /proc/vmstat, as a witness:")
    show_reconciliation(before)
    return daemon.stop()


if __name__ == "__main__":
    sys.exit(main())
