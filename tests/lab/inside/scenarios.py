"""The scenarios of a guest, one after the other under one running daemon.

`python -m tests.lab.inside.scenarios LAYOUT` sends a line for each scenario: what the workload did,
what pinwatch counted meanwhile, what the kernel counted meanwhile. It judges nothing: the tests on
the host's side do (tests/lab/test_scenarios.py).
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.lab import channel
from tests.lab.inside import host, network, vfio

Result = dict[str, Any]
Scenario = Callable[[], Result]

RECORDING = "/tmp/recording.jsonl.gz"
LOOKING_PERCENT = "25"  # emulated, a look takes thirty times as long
BURST = 8_000  # of processes; the socket holds some 5000 messages
_BURST = "$SIG{CHLD} = q(IGNORE); for (1 .. $ARGV[0]) { fork // die $! or POSIX::_exit(0) }"
METRICS = "metrics.txt"
_STAYING = ExitStack()  # VMs that live until the end
RULES_S = 90.0  # they run each minute, and look at it when it is 15 s old
WITNESSES = (
    "pgmigrate_success", "pgmigrate_fail", "thp_migration_success", "thp_migration_fail",
    "thp_migration_split", "thp_split_page", "thp_split_page_failed",
    "nr_foll_pin_acquired", "nr_foll_pin_released",
)  # fmt: skip


def observe(scenario: Scenario) -> Result:
    """A scenario's result with what changed in pinwatch and in the kernel while it ran."""
    kernel_before, ours_before = host.vmstat(), host.settled_metrics()
    failures_before = len(host.pins())
    began = time.monotonic()
    result = scenario()
    seconds = time.monotonic() - began
    kernel_after, ours_after = host.vmstat(), host.settled_metrics()
    failures = host.pins()
    return {
        "workload": result,
        "seconds": seconds,
        "metrics": host.difference(ours_after, ours_before),
        "reconciliation": {
            name: value for name, value in ours_after.items() if "_reconciliation_" in name
        },
        "vmstat": {name: kernel_after[name] - kernel_before[name] for name in WITNESSES},
        "failures": failures[: len(failures) - failures_before],
    }


def module_later() -> Result:
    """VFIO is loaded after the daemon became ready; the very first map must be seen."""
    hooks = {name: n for name, n in host.metrics().items() if 'hook="vfio_map"' in name}
    vfio.load_modules()
    vfio.bind_edu()
    return {"hooks_before": hooks, **host.run_workload("maps", mib=4, times=1)}


def plain_success() -> Result:
    """Prime numbers: 3 maps of 17 MiB of fresh memory."""
    return host.run_workload("maps", mib=17, times=3)


def held_page() -> Result:
    """One of 64 MiB is held by a pipe of the process itself."""
    return host.run_workload("maps", mib=64, times=1, hold=32 << 20, fresh=False)


def real_qemu() -> Result:
    """A real VMM, its memory a file of which another process holds one page in a pipe."""
    path, mib = "/dev/shm/web-01", 128
    with host.running_workload("hold_file", path=path, mib=mib, offset=61 << 20) as (holder, _):
        done = host.qemu(name="web-01", ram_file=path, mib=mib, bdf=vfio.find_edu().name)
        time.sleep(1)
        events = host.events("web-01")
        result = {
            "exit_code": done.returncode,
            "stderr": done.stderr.decode(errors="replace"),
            "holder_pid": holder.pid,
            "why": host.why("web-01"),
            "events": events,
            "why_event": host.why("--event", events[-1]["id"]),
            "bdf": vfio.find_edu().name,
            "devices": [
                line for line in host.get("/metrics").splitlines()
                if line.startswith("pinwatch_vm_device_info{")
            ],
            "metric_lines": [
                line for line in host.get("/metrics").splitlines()
                if line.startswith("pinwatch_vfio_map_failures_total") and 'vm="web-01"' in line
                and not line.endswith(" 0.0")
            ],
        }  # fmt: skip
    Path(path).unlink()
    return result


def for_a_colleague() -> Result:
    """After the failure: `pinwatch record --redact`, and what that replays to."""
    output = "/tmp/redacted.jsonl.gz"
    host.pinwatch("record", "--redact", "--output", output)
    said = json.loads(host.pinwatch("replay", "--json", output))
    text = gzip.decompress(Path(output).read_bytes()) + json.dumps(said).encode()
    return {
        "reasons": [one["reason"] for one in said],
        "names": [one["vm"]["name"] for one in said],
        "told": [name for name in ("web-01", "6f3a1c52", "/dev/shm/") if name.encode() in text],
    }


def lives() -> Result:
    """VMs that start and end without a pin, and a burst of processes that the kernel cannot tell
    while the daemon does not listen."""
    found = {}
    with _idle_vm("idle-01"):
        found["started"] = _seconds_until("idle-01")
    # At once, before a reading of the counters: it has no uuid, so only that one's end tells that
    # this is no other VM of the same name.
    with _idle_vm("idle-01"):
        found["again"] = _seconds_until("idle-01~2", give_up_s=5)
    daemon = host.daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        subprocess.run(["perl", "-MPOSIX", "-e", _BURST, str(BURST)], check=True)
        with _idle_vm("late-01"):
            os.kill(daemon, signal.SIGCONT)
            found["late"] = _seconds_until("late-01")
    finally:
        os.kill(daemon, signal.SIGCONT)
    return {**found, "burst": BURST}


@contextmanager
def _idle_vm(name: str) -> Iterator[None]:
    command = ["qemu-system-x86_64", "-name", name, "-accel", "tcg", "-S", "-nodefaults"]
    with subprocess.Popen([*command, "-display", "none", "-m", "64M"]) as process:
        try:
            yield
        finally:
            process.kill()


def _seconds_until(vm: str, give_up_s: float = 240) -> float | None:
    """How long it takes until a VM is in the metrics; None when it does not come."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < give_up_s:
        if any(name.startswith("pinwatch_vm_info{") and f'vm="{vm}"' in name
               for name in host.metrics()):  # fmt: skip
            return passed
    return None


def hints() -> Result:
    """A process that looks like a VMM says this and that of its memory."""
    return host.run_workload("hints", vm="hinting", mib=64)


def looked_at() -> Result:
    """A VM that does nothing, whose memory the daemon looks at: two looks, a page each way."""
    with host.running_workload("stay", vm="quiet", mib=256) as (_, truth):
        first = _looked("quiet", after=time.time())
        second = _looked("quiet", after=time.time())
        metrics = host.metrics()
    own = {name: n for name, n in metrics.items() if 'vm="quiet"' in name and n}
    host_wide = {
        name: n for name, n in metrics.items() if "_host_free_" in name or "_cma_area_" in name
    }
    return {"truth": truth, "looks": [first, second], "quiet": own, "host": host_wide}


def will_fail() -> Result:
    """A VM that is not allowed to lock its memory. It stays: what is recorded each minute must see
    it."""
    _STAYING.enter_context(host.running_workload("stay", vm="doomed", mib=64, limit_mib=16))
    _looked("doomed", after=time.time())
    risks = [name for name in host.metrics() if "pinwatch_vm_pin_risk{" in name]
    return {"risks": [name for name in risks if 'vm="doomed"' in name]}


def _looked(vm: str, *, after: float) -> float:
    """When the daemon looked at a VM's memory, after that time."""
    name = f'pinwatch_vm_placement_timestamp_seconds{{vm="{vm}"}}'
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if (when := host.metrics().get(name, 0)) > after:
            return when
        time.sleep(1)
    raise RuntimeError(f"{vm} was not looked at after {after}")


def drop_caches() -> Result:
    """The suspect of the mailing list: a loop of drop_caches beside 30 maps. On 6.1 some of them
    fail, 2 to 12 of 30 in runs so far; it goes on there until one has."""
    must_fail = os.uname().release.startswith("6.1.")
    stop, writes = threading.Event(), 0

    def loop() -> None:
        nonlocal writes
        while not stop.is_set():
            subprocess.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do "
                            "echo 1 > /proc/sys/vm/drop_caches; done"], check=True)  # fmt: skip
            writes += 8

    thread = threading.Thread(target=loop)
    thread.start()
    errors: list[int] = []
    try:
        while not errors or (must_fail and not any(errors) and len(errors) < 300):
            errors += host.run_workload("maps", mib=32, times=30)["errors"]
    finally:
        stop.set()
        thread.join()
    return {"errors": errors, "writes": writes}


def crowd() -> Result:
    """Four times as many maps at once as a return probe by itself has slots for, with 2 CPUs."""
    return host.run_workload("crowd", mib=2, threads=40)


def memlock() -> Result:
    """RLIMIT_MEMLOCK of 16 MiB, a map of 32."""
    return host.run_workload("memlock", mib=32, limit_mib=16)


def no_destination() -> Result:
    """A process confined to node 1, all of which is ZONE_MOVABLE."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], check=True)
    (root / "cgroup.subtree_control").write_text("+cpuset")
    confined = root / "movable-only"
    confined.mkdir(exist_ok=True)
    (confined / "cpuset.mems").write_text("1")
    return host.run_workload("movable_only", mib=16, cpuset=str(confined))


def founding_report() -> Result:
    """A fragmented kernel zone, huge pages in Movable, one subpage held."""
    return host.run_workload("fragmented", fill_mib=640, every_kib=256, thp_mib=256)


def cma_success() -> Result:
    """512 MiB, most of it in CMA, all of which must leave it."""
    return host.run_workload("cma_map", mib=512, held=False)


def cma_held() -> Result:
    """The same with one page held."""
    return host.run_workload("cma_map", mib=512, held=True)


LAYOUTS: dict[str, tuple[Scenario, ...]] = {
    # Those that fail come early: what a Prometheus records of them each minute is there at the end.
    "plain": (
        module_later, plain_success, held_page, real_qemu, for_a_colleague, drop_caches, memlock,
        crowd, no_destination, lives, will_fail, hints, looked_at,
    ),
    "fragmented": (founding_report,),
    "cma": (looked_at, cma_success, cma_held),
}  # fmt: skip


def _wait_for_rules(changed_at: float) -> None:
    """Until the recording rules of a Prometheus that scrapes us have seen what came last."""
    time.sleep(max(0.0, changed_at + RULES_S - time.monotonic()))


def main(layout: str) -> int:
    options = ["--record", RECORDING, "--placement-cpu-percent", LOOKING_PERCENT]
    if is_watched := network.up():
        options += ["--listen", f"0.0.0.0:{network.METRICS_PORT}"]
    daemon = host.Daemon(*options)
    channel.send("ready", seconds=daemon.ready_s, memory=daemon.memory(), log=daemon.log())
    if layout != "plain":
        vfio.load_modules()
        vfio.bind_edu()
    failed, changed_at = 0, 0.0
    for scenario in LAYOUTS[layout]:
        try:
            result = observe(scenario)
            if result["failures"] or scenario in (will_fail, looked_at):
                changed_at = time.monotonic()
        except Exception:
            failed += 1
            result = {"broken": traceback.format_exc()[-3000:], "log": daemon.log()}
        channel.send("scenario", name=scenario.__name__, result=result)
    if is_watched:
        _wait_for_rules(changed_at)
    memory = daemon.memory()
    (channel.out_dir() / METRICS).write_text(host.get("/metrics"))
    # In this order: a last scrape must not find a VM gone whose daemon still answers.
    code = daemon.stop()
    _STAYING.close()
    channel.send("stopped", code=code, memory=memory, log=daemon.log())
    shutil.copy(RECORDING, channel.out_dir() / "recording.jsonl.gz")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
