"""The guest seen as a hypervisor host: the daemon, its metrics, the kernel's own counters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pinwatch.commands import client

PINWATCH = [sys.executable, "-m", "pinwatch"]
SOCKET = "/run/pinwatch/pinwatch.sock"
URL = "http://127.0.0.1:19816"
READY_S = 600  # emulated, beside another guest
PATIENCE_S = 60

Series = dict[str, float]


def vmstat() -> dict[str, int]:
    """/proc/vmstat, settled: per-CPU counters are folded in once a second, or on stat_refresh."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    pairs = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def get(path: str) -> str:
    """A page of the daemon."""
    with urllib.request.urlopen(URL + path, timeout=60) as answer:
        return str(answer.read().decode())


def metrics() -> Series:
    """All samples of pinwatch, by `name{label="value",...}` with the labels in order."""
    found = {}
    for family in text_string_to_metric_families(get("/metrics")):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return {name: value for name, value in found.items() if name.startswith("pinwatch_")}


def settled_metrics() -> Series:
    """Metrics after a whole reading of the counters that began later than now. What is read second
    is: the records that the first came too early for have been taken."""
    now = time.time()
    times: set[float] = set()
    while len(times) < 2:
        time.sleep(0.3)
        if (sampled := _sampled()) > now:
            times.add(sampled)
    return metrics()


def _sampled() -> float:
    """Not parsed as a whole: that takes a second under emulation."""
    found = re.search(r"^pinwatch_sample_timestamp_seconds (\S+)$", get("/metrics"), re.M)
    assert found
    return float(found[1])


def difference(after: Series, before: Series) -> Series:
    """What changed, without what stayed."""
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


class Daemon:
    """`pinwatch run` as a child, waited for until it is ready."""

    def __init__(self, *options: str) -> None:
        self._log = open("/tmp/pinwatch.log", "ab")  # noqa: SIM115 - lives with the daemon
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*PINWATCH, "run", "--sample-interval", "0.5", *options],
            stderr=self._log,
            stdout=self._log,
        )
        self._wait()
        self.ready_s = time.monotonic() - began

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                get("/-/ready")
                return
            except OSError:
                time.sleep(0.2)
        self.process.kill()
        raise RuntimeError(f"the daemon is not ready: {self.log()}")

    def log(self) -> str:
        return Path("/tmp/pinwatch.log").read_text(errors="replace")[-4000:]

    def memory(self) -> dict[str, int]:
        """Resident and private memory of the daemon and its children, in KiB."""
        total = {"rss_kib": 0, "private_kib": 0}
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in (str(self.process.pid), *children.split()):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            fields = dict(re.findall(r"^(\w+): +(\d+) kB", text, re.M))
            total["rss_kib"] += int(fields["Rss"])
            total["private_kib"] += int(fields["Private_Clean"]) + int(fields["Private_Dirty"])
        return total

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def daemon_pid() -> int:
    """The daemon, which is a child of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (found,) = (int(c) for c in children if b"\0run\0" in Path(f"/proc/{c}/cmdline").read_bytes())
    return found


def pinwatch(*words: str) -> str:
    """What a command prints. RuntimeError with its complaint when it fails."""
    done = subprocess.run([*PINWATCH, *words], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pinwatch {words[0]}: {done.stderr.decode()[-2000:]}")
    return done.stdout.decode()


def why(*arguments: str) -> str:
    """`pinwatch why` as a user would read it."""
    return pinwatch("why", *arguments)


def events(vm: str) -> list[dict[str, Any]]:
    """`pinwatch events --json` of a VM: from the history on disk."""
    return [json.loads(line) for line in pinwatch("events", "--json", "--vm", vm).splitlines()]


def pins(kind: str = "failures", *, limit: int = 1000) -> list[dict[str, Any]]:
    """What `pinwatch why --json --last 1000` prints, without starting a Python for it; or the pins
    that were `slow`, or all that are `stuck`. The newest first."""
    answer = client.get(SOCKET, "/api/v1/failures", timeout_s=PATIENCE_S, limit=str(limit))
    found: list[dict[str, Any]] = answer[kind]
    return found


def run_workload(name: str, *, vm: str = "", **arguments: object) -> dict[str, Any]:
    """A workload to its end; what it said last. `vm`: it looks like a QEMU of that name."""
    done = subprocess.run(workload_command(name, arguments, vm), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.decode()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return result


def workload_command(name: str, arguments: dict[str, object], vm: str) -> list[str]:
    """What runs a workload; `vm`: as a QEMU of that name."""
    command = [sys.executable, "-m", "tests.lab.inside.workload", name, json.dumps(arguments)]
    if not vm:
        return command
    program = Path("/tmp/qemu-system-x86_64")
    program.unlink(missing_ok=True)
    program.symlink_to(sys.executable)
    return [str(program), *command[1:], "-name", vm]


@contextmanager
def running_workload(
    name: str, *, vm: str = "", **arguments: object
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A workload that goes on until the block ends, and its first line."""
    with subprocess.Popen(workload_command(name, arguments, vm), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                raise RuntimeError(f"{name} said nothing")
            yield process, json.loads(said)
        finally:
            process.kill()


def qemu(*, name: str, ram_file: str, mib: int, bdf: str) -> subprocess.CompletedProcess[bytes]:
    """A real VMM with a VFIO device. It stays up when its map works, so it gets 60 s."""
    backend = f"memory-backend-file,id=ram,size={mib}M,mem-path={ram_file},share=on,prealloc=on"
    return subprocess.run(
        [
            *("qemu-system-x86_64", "-name", f"guest={name},debug-threads=on"),
            *("-uuid", "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21"),
            *("-accel", "tcg", "-S", "-display", "none", "-nodefaults"),
            *("-m", f"{mib}M", "-object", backend, "-machine", "q35,memory-backend=ram"),
            *("-device", f"vfio-pci,host={bdf}"),
        ],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
