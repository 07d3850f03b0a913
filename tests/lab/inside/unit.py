"""A host that systemd has booted, with pinwatch installed by Ansible: `python -m
tests.lab.inside.unit`, started by a unit of its own.

Says what systemd and the kernel make of the shipped unit, then lets a pin fail. It judges nothing:
tests/lab/test_ansible.py does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.lab import channel
from tests.lab.inside import host, vfio

Result = dict[str, Any]

READY_S = 300
USER = 107  # as libvirt's QEMU, not root
PROPERTIES = (
    "ActiveState", "SubState", "Result", "NRestarts", "StatusText", "MainPID", "MemoryPeak",
    "CapabilityBoundingSet", "NoNewPrivileges", "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic", "WatchdogUSec", "UnitFileState",
)  # fmt: skip


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def unit() -> Result:
    """What systemd says of it, as soon as it has an opinion."""
    deadline = time.monotonic() + READY_S
    while systemctl("is-active", "pinwatch") == "activating" and time.monotonic() < deadline:
        time.sleep(1)
    shown = systemctl("show", "pinwatch", *(f"--property={name}" for name in PROPERTIES))
    return {
        "is_active": systemctl("is-active", "pinwatch"),
        "system": systemctl("is-system-running"),
        "first_process": Path("/proc/1/comm").read_text().strip(),
        "properties": dict(line.split("=", 1) for line in shown.splitlines()),
        "journal": _journal(),
    }


def _journal() -> str:
    return subprocess.run(
        ["journalctl", "--unit=pinwatch", "--no-pager", "--output=cat"],
        capture_output=True, text=True, check=False,
    ).stdout[-4000:]  # fmt: skip


def hooks() -> Result:
    """What is attached under the unit's hardening."""
    return {name: n for name, n in host.metrics().items() if "hook_attached" in name}


def failure() -> Result:
    """A VM fails; one of another user is looked at."""
    vfio.load_modules()
    vfio.bind_edu()
    os.chmod("/lab", 0o755)
    command = [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
        *host.workload_command("stay", {"mib": 64}, "quiet"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as quiet:
        try:
            looked_s = _looked_s("quiet")
        finally:
            quiet.kill()
    work = host.run_workload("maps", vm="web-01", mib=64, times=1, hold=32 << 20, fresh=False)
    time.sleep(3)
    metrics = host.metrics()
    return {
        "workload": work,
        "looked_s": looked_s,
        "failures": host.pins(),
        "events": host.events("web-01"),
        "losses": {name: n for name, n in metrics.items() if "losses" in name and n},
        "fields": _fields(),
    }


def _looked_s(vm: str) -> float | None:
    began = time.monotonic()
    name = f'pinwatch_vm_placement_timestamp_seconds{{vm="{vm}"}}'
    while (passed := time.monotonic() - began) < 120:
        if host.metrics().get(name):
            return passed
        time.sleep(1)
    return None


def _fields() -> list[dict[str, Any]]:
    """The failure in the journal, found by its field."""
    done = subprocess.run(
        ["journalctl", "PINWATCH_VM=web-01", "--no-pager", "--output=json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def doctor() -> Result:
    done = subprocess.run(["pinwatch", "doctor", "--json"], capture_output=True, check=False)
    return {"code": done.returncode, "checks": json.loads(done.stdout)}


def restart() -> Result:
    """systemd stops and starts it; Type=notify keeps it waiting until it is ready."""
    began = time.monotonic()
    systemctl("restart", "pinwatch")
    ready = host.get("/-/ready")
    seconds = time.monotonic() - began
    return {"seconds": seconds, "ready": ready, "is_active": systemctl("is-active", "pinwatch")}


SCENARIOS = (unit, hooks, failure, doctor, restart)


def main() -> int:
    for scenario in SCENARIOS:
        try:
            result = scenario()
        except Exception:
            result = {"broken": traceback.format_exc()[-3000:], "log": _journal()}
        channel.send("scenario", name=scenario.__name__, result=result)
    channel.send("stopped", code=0, memory={})
    return 0


if __name__ == "__main__":
    sys.exit(main())
