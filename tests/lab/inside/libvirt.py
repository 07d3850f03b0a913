"""VMs as libvirt runs them, and VMs that hardly live: `python -m tests.lab.inside.libvirt`.

One line for each scenario under one daemon, and one for a second daemon that finds them running.
It judges nothing: tests/lab/test_libvirt.py does.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.lab import channel
from tests.lab.inside import domains, host, scenarios, vfio
from tests.lab.inside.domains import Domain

Result = dict[str, Any]

MIB = 1 << 20
RAM_MIB = 64
# Node 1 has nothing but ZONE_MOVABLE: memory to use, and none to pin.
FAILING = Domain(
    name="web-01", uuid="6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b01", title="the shop", nodeset="1"
)
NOVA = """
<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
  <nova:name>billing</nova:name>
  <nova:owner><nova:project uuid="a1">accounts</nova:project></nova:owner>
</nova:instance>"""
WORKING = Domain(
    name="instance-0000002a", uuid="6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b02", metadata=NOVA
)
WITHOUT_DEVICE = Domain(name="db-01", uuid="6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b03")

# Every QEMU of libvirt's gets a secret of that name.
SECRET = (
    "-object",
    '{"qom-type":"secret","id":"masterKey0","format":"raw","data":"MDEyMzQ1Njc4OWFiY2RlZg=="}',
)


def real_libvirt(_: host.Daemon) -> Result:
    """A domain whose start fails, beside one whose device works and one that has none."""
    failing, working = vfio.find_edus()
    domains.define(FAILING, failing)
    domains.define(WORKING, working)
    domains.define(WITHOUT_DEVICE)
    return {
        "started": {
            domain.name: domains.start(domain) for domain in (WORKING, WITHOUT_DEVICE, FAILING)
        },
        "list": domains.virsh("list", "--all").stdout,
        "libvirtd": domains.libvirtd_log(),
        "why": host.why(FAILING.name),
        "info": vm_info(),
    }


def vm_info() -> dict[str, dict[str, str]]:
    """The labels of pinwatch_vm_info, by VM."""
    families = text_string_to_metric_families(host.get("/metrics"))
    found = (family for family in families if family.name == "pinwatch_vm_info")
    return {sample.labels["vm"]: sample.labels for family in found for sample in family.samples}


def short_lives(_: host.Daemon) -> Result:
    """A hundred VMs, one after the other, each gone in its first map."""
    return host.run_workload("momentary_vms", prefix="burst", count=100)


def lives_unseen(daemon: host.Daemon) -> Result:
    """The same while the daemon is stopped: all are dead when it looks."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        return host.run_workload("momentary_vms", prefix="unseen", count=100)
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def libvirt_scope(_: host.Daemon) -> Result:
    """In the scopes that systemd makes for libvirt: a QEMU with libvirt's own options whose map
    fails, and one whose scope alone tells that it is libvirt's, which lives on."""
    device, path = vfio.find_edu().name, "/dev/shm/web-02"
    with host.running_workload("hold_file", path=path, mib=RAM_MIB, offset=31 * MIB):
        failed = subprocess.run(
            in_scope(2, "web-02", qemu("web-02", 2, path, device, SECRET)),
            capture_output=True,
            timeout=120,
            check=False,
        )
    Path(path).unlink()
    subprocess.Popen(in_scope(3, "web-03", qemu("web-03", 3, "/dev/shm/web-03", device, ())))
    pins = 'pinwatch_longterm_pins_total{source="vfio_type1",vm="web-03"}'
    deadline = time.monotonic() + 60
    while not host.metrics().get(pins) and time.monotonic() < deadline:
        time.sleep(0.5)
    return {
        "exit_code": failed.returncode,
        "stderr": failed.stderr.decode(errors="replace"),
        "info": vm_info(),
    }


def qemu(name: str, number: int, ram_file: str, device: str, more: tuple[str, ...]) -> list[str]:
    """A command line in libvirt's words."""
    backend = (
        f'{{"qom-type":"memory-backend-file","id":"pc.ram","mem-path":"{ram_file}","share":true,'
        f'"prealloc":true,"size":{RAM_MIB * MIB}}}'
    )
    return [
        *("/usr/bin/qemu-system-x86_64", "-name", f"guest={name},debug-threads=on", "-S"),
        *more,
        *("-machine", "pc,usb=off,dump-guest-core=off,memory-backend=pc.ram", "-accel", "tcg"),
        *("-m", str(RAM_MIB), "-object", backend, "-overcommit", "mem-lock=off"),
        *("-uuid", f"0b6a0e57-6a0b-4c6e-8f43-0b5ad5a3b9{number:02}", "-display", "none"),
        *("-no-user-config", "-nodefaults"),
        *("-device", f'{{"driver":"vfio-pci","host":"{device}","id":"hostdev0"}}'),
    ]


def in_scope(number: int, name: str, command: list[str]) -> list[str]:
    """The command in a cgroup as systemd makes one for libvirt (systemd.unit(5): "-" is \\x2d)."""
    escaped = f"qemu-{number}-{name}".replace("-", r"\x2d")
    scope = f"machine-{escaped}.scope"
    cgroup = Path("/sys/fs/cgroup/machine.slice", scope, "libvirt", "emulator")
    cgroup.mkdir(parents=True, exist_ok=True)
    return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup), *command]


def restarted(daemon: host.Daemon) -> Result:
    """A daemon that starts while VMs run."""
    before = vm_info()
    code = daemon.stop()
    second = host.Daemon()
    return {
        "running": domains.virsh("list", "--name").stdout.split(),
        "code": code,
        "before": before,
        "info": vm_info(),
        "seconds": second.ready_s,
        "second_code": second.stop(),
    }


def main(names: list[str]) -> int:
    vfio.load_modules()
    for device in vfio.find_edus():
        vfio.bind_edu(device)
    daemon = host.Daemon()
    channel.send("ready", seconds=daemon.ready_s, memory=daemon.memory())
    domains.start_libvirtd()
    failed = 0
    for scenario in SCENARIOS:
        if names and scenario.__name__ not in names:
            continue
        try:
            result = scenarios.observe(partial(scenario, daemon))
        except Exception:
            failed += 1
            result = {"broken": traceback.format_exc()[-3000:], "log": daemon.log()}
        channel.send("scenario", name=scenario.__name__, result=result)
    channel.send("scenario", name="restarted", result=restarted(daemon))
    return failed


SCENARIOS = (real_libvirt, short_lives, lives_unseen, libvirt_scope)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
