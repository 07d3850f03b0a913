"""The DaemonSet's container on a host: `python -m tests.lab.inside.oci IMAGE [WITHOUT...]`.

Its image, its configuration as a container runtime would make it of the manifest, a real OCI
runtime (crun), and VMs in pods as KubeVirt runs them. Once for each WITHOUT, which are
capabilities (`SYS_ADMIN,BPF`) that are taken away from it. It judges nothing: tests/lab/test_oci.py
does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import channel, oci
from tests.lab.image import Image
from tests.lab.inside import host, vfio

Result = dict[str, Any]

CGROUPS = Path("/sys/fs/cgroup")
ID = "pinwatch"
CONSOLE = Path("/tmp/oci.log")
OWN_CGROUP = (
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_0000_4000_8000_"
    "000000000001.slice/cri-containerd-1111.scope"
)
POD = "5d3f1f0e-2b74-4c36-9a55-0d8c3c1b7e21"
VM_CGROUP = f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-2222.scope"
VM_USER = 107  # qemu, in a virt-launcher
MIB = 1 << 20
LOOKING_PERCENT = "25"  # emulated, a look takes thirty times as long
_TOLD = r"pinwatch_(hook_attached|vm_info|losses|vfio_map_failures|history|process_rescans)"
# As a libvirt starts them.
SECRET = '{"qom-type":"secret","id":"masterKey0","format":"raw","data":"MDEyMzQ1Njc4OWFiY2RlZg=="}'


def main(image: Path, taken_away: Sequence[str]) -> int:
    _prepare()
    for names in taken_away or [""]:
        try:
            result = _observe(Image(image), names.split(","))
        except Exception:
            result = {"broken": traceback.format_exc()[-3000:], "log": _log()}
        channel.send("scenario", name=f"without {names}".strip(), result=result)
    channel.send("stopped", code=0, memory={})
    return 0


def _prepare() -> None:
    if not (CGROUPS / "cgroup.controllers").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(CGROUPS)], check=True)
    for group in (CGROUPS, *_parents(OWN_CGROUP), *_parents(VM_CGROUP)):
        group.mkdir(exist_ok=True)
        (group / "cgroup.subtree_control").write_text("+memory +cpu +pids")
    (CGROUPS / VM_CGROUP[1:]).mkdir()
    vfio.load_modules()
    os.chown(vfio.bind_edu(), VM_USER, VM_USER)  # as virt-handler does
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _parents(cgroup: str) -> Iterator[Path]:
    parts = cgroup.strip("/").split("/")[:-1]
    return (CGROUPS.joinpath(*parts[: n + 1]) for n in range(len(parts)))


# ---- the container ----------------------------------------------------------------------------


@contextmanager
def _container(image: Image, without: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """It runs until the block ends; what it says goes to CONSOLE."""
    bundle = Path("/tmp/bundle")
    bundle.mkdir(exist_ok=True)
    pod = oci.daemon_set()["spec"]["template"]["spec"]
    for volume in pod["volumes"]:
        if volume.get("hostPath", {}).get("type") == "DirectoryOrCreate":
            Path(volume["hostPath"]["path"]).mkdir(parents=True, exist_ok=True)
    config = oci.configuration(
        pod,
        image.configuration,
        rootfs=_overlay(image.rootfs),
        cgroup=OWN_CGROUP,
        fields={"status.hostIP": "127.0.0.1"},
        without=without,
    )
    config["process"]["args"] += ["--placement-cpu-percent", LOOKING_PERCENT]
    (bundle / "config.json").write_text(json.dumps(config))
    command = ["crun", "--cgroup-manager=cgroupfs", "run", "--bundle", str(bundle), ID]
    with CONSOLE.open("wb") as console:
        process = subprocess.Popen(command, stdout=console, stderr=console)
    try:
        yield process
    finally:
        subprocess.run(["crun", "delete", "--force", ID], capture_output=True, check=False)
        process.kill()
        process.wait()


def _overlay(image: Path) -> str:
    """As a runtime lays a container's own files over an image."""
    layers = Path("/run/oci")
    if not layers.exists():
        layers.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(layers)], check=True)
        for part in ("upper", "work", "rootfs"):
            (layers / part).mkdir()
        options = f"lowerdir={image},upperdir={layers}/upper,workdir={layers}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "none", "-o", options, str(layers / "rootfs")], check=True
        )
    return str(layers / "rootfs")


def _log() -> str:
    return CONSOLE.read_text(errors="replace")[-3000:] if CONSOLE.exists() else ""


def _in_container(*words: str) -> Result:
    """As `kubectl exec` runs it."""
    done = subprocess.run(["crun", "exec", ID, *words], capture_output=True, text=True, check=False)
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr[-1500:]}


def _wait_until_ready(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + host.READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            host.get("/-/ready")
            return True
        except OSError:
            time.sleep(0.3)
    return False


# ---- what is seen -----------------------------------------------------------------------------


def _observe(image: Image, without: Sequence[str]) -> Result:
    began = time.monotonic()
    with _container(image, without) as process:
        if not _wait_until_ready(process):
            return {"ready": False, "code": process.poll(), "log": _log()}
        found: Result = {"ready": True, "ready_s": time.monotonic() - began}
        found["status"] = _status()
        found["quiet"] = _quiet_vm()
        found["failing"] = _failing_vm()
        found["why"] = _in_container("pinwatch", "why", "shop_web-01", "--json")
        found["doctor"] = _in_container("pinwatch", "doctor", "--json")
        found["metrics"] = {
            name: value for name, value in host.metrics().items()
            if re.match(_TOLD, name)
        }  # fmt: skip
        subprocess.run(["crun", "kill", ID, "TERM"], check=True)
        found["code"] = process.wait(60)
        found["log"] = _log()
    found["history"] = Path("/var/lib/pinwatch/history.db").stat().st_size
    return found


def _status() -> dict[str, str]:
    """The daemon as the kernel sees it."""
    listed = json.loads(subprocess.run(["crun", "state", ID], capture_output=True).stdout)
    lines = Path(f"/proc/{listed['pid']}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    wanted = ("CapEff", "CapBnd", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Uid")
    spaces = {
        f"ns_{name}": str(os.readlink(f"/proc/{listed['pid']}/ns/{name}")
                          == os.readlink(f"/proc/self/ns/{name}"))
        for name in ("pid", "net", "mnt", "cgroup", "ipc")
    }  # fmt: skip
    return {name: fields[name] for name in wanted} | spaces


def _quiet_vm() -> Result:
    """A VM whose memory is not there yet, in a cgroup that has not room for it."""
    (CGROUPS / VM_CGROUP[1:] / "memory.max").write_text(str(160 * MIB))
    command = _vm("shop_db-01", 256, "memory-backend-ram,id=ram,size=256M")
    with subprocess.Popen(command) as process:
        try:
            seen_s = _seconds_until("pinwatch_vm_info{", "shop_db-01", 60)
            # A first look may come before QEMU has mapped its memory: it says nothing yet.
            looked_s = _seconds_until("pinwatch_vm_pin_risk{", "shop_db-01", 60)
            check = _in_container("pinwatch", "check")
            metrics = host.metrics()
        finally:
            process.kill()
    (CGROUPS / VM_CGROUP[1:] / "memory.max").write_text("max")
    own = {name: n for name, n in metrics.items() if 'vm="shop_db-01"' in name and n}
    return {"seen_s": seen_s, "looked_s": looked_s, "series": own, "check": check}


def _seconds_until(metric: str, vm: str, give_up_s: float) -> float | None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < give_up_s:
        if any(n.startswith(metric) and f'vm="{vm}"' in n and v for n, v in host.metrics().items()):
            return passed
        time.sleep(0.5)
    return None


def _failing_vm() -> Result:
    """A VM with a device, whose memory is a file of which another process holds one page."""
    path, mib = Path("/dev/shm/web-01"), 128
    bdf = vfio.find_edu().name
    backend = f"memory-backend-file,id=ram,size={mib}M,mem-path={path},share=on,prealloc=on"
    held: dict[str, Any] = {"path": str(path), "mib": mib, "offset": 61 * MIB}
    with host.running_workload("hold_file", **held) as (holder, _):
        os.chown(path, VM_USER, VM_USER)
        command = [*_vm("shop_web-01", mib, backend), "-device", f"vfio-pci,host={bdf}"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        time.sleep(1)
        found = {
            "exit_code": done.returncode,
            "stderr": done.stderr.decode(errors="replace"),
            "holder_pid": holder.pid,
            "bdf": bdf,
            "devices": [n for n in host.metrics() if n.startswith("pinwatch_vm_device_info{")],
        }
    path.unlink()
    return found


def _vm(name: str, mib: int, backend: str) -> list[str]:
    """A QEMU as in a virt-launcher: its cgroup, its user, its words."""
    enter = f'echo $$ > {CGROUPS}{VM_CGROUP}/cgroup.procs && exec "$@"'
    user = f"--reuid={VM_USER}", f"--regid={VM_USER}", "--clear-groups"
    return [
        *("sh", "-c", enter, "sh", "prlimit", "--memlock=unlimited", "setpriv", *user),
        *("qemu-system-x86_64", "-name", f"guest={name},debug-threads=on", "-object", SECRET),
        *("-uuid", "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21", "-accel", "tcg", "-S", "-nodefaults"),
        *("-display", "none", "-m", f"{mib}M", "-object", backend, "-machine"),
        "q35,memory-backend=ram",
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
