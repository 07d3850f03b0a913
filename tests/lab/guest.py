"""Boot one guest, run one command in it, say how it ended.

Takes a kernel, a Layout (memory and how it is cut up, devices) and a command.  Gives an Outcome
and a directory with the console, the command's output, the channel's lines and what the command
left for the host.  The guest sees the host's files, read-only under overlays.  Never runs two
guests at a time, never leaves one behind, never takes a guest's silence for success.
"""

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import channel
from tests.lab.archive import cache_dir, locked
from tests.lab.inside import network
from tests.lab.kernels import Kernel
from tests.lab.outcome import (
    Event,
    Outcome,
    decide,
    emulator_broke,
    exit_status,
    parse_line,
    read,
)

OnEvent = Callable[[Event], None]

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent.parent
_WRITABLE = ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")
_POLL_S = 0.05
_POWER_OFF_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The shape of a guest.  `max_ram_below_4g` ("768M") moves the rest to another zone."""

    name: str
    memory: str = "2G"
    cpus: int = 2
    kernel_args: tuple[str, ...] = ()
    qemu_args: tuple[str, ...] = ()
    max_ram_below_4g: str | None = None

    def kernel_options(self) -> list[str]:
        return ["intel_iommu=on", "oops=panic", "panic=-1", "loglevel=5", *self.kernel_args]

    def qemu_options(self) -> list[str]:
        machine = "q35,kernel-irqchip=split"
        if self.max_ram_below_4g:
            machine += f",max-ram-below-4g={self.max_ram_below_4g}"
        # QEMU's VT-d wants the split interrupt chip; edu is the device that memory is pinned for.
        devices = ["-machine", machine, "-device", "intel-iommu", "-device", "edu"]
        return [*devices, *self.qemu_args]


# Emulated CPUs that run in parallel may meet a breakpoint that another one is just patching out.
EMULATOR_TRIES = 3


def boot(
    kernel: Kernel,
    layout: Layout,
    command: Sequence[str],
    *,
    results: Path | None = None,
    timeout_s: float = 300,
    environment: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
    metrics_port: int | None = None,
    tries: int = EMULATOR_TRIES,
) -> Outcome:
    """Run the command as root in a fresh guest.  `on_event` gets each event as it arrives.  On
    `metrics_port` of this machine's loopback answers what listens on METRICS_PORT in the guest.

    A guest that the emulator itself broke is booted again, and says so; `tries` times in all.
    """
    if metrics_port is not None:
        layout = replace(layout, qemu_args=layout.qemu_args + _network(metrics_port))
    for _ in range(tries):
        outcome = _boot_once(kernel, layout, command, results, timeout_s, environment, on_event)
        if not emulator_broke(outcome.status, read(outcome.console)):
            break
        print(f"lab: the emulator broke the guest ({outcome.console})", file=sys.stderr)
    return outcome


def _boot_once(
    kernel: Kernel,
    layout: Layout,
    command: Sequence[str],
    results: Path | None,
    timeout_s: float,
    environment: Mapping[str, str] | None,
    on_event: OnEvent | None,
) -> Outcome:
    name = f"{kernel.series.name}-{layout.name}"
    directory = _new_directory(results or cache_dir() / "results", name)
    _write_job(directory / "share", command, environment or {})
    vmm = [
        *_virtme(kernel, layout),
        "--show-boot-console",
        f"--rwdir={channel.SHARE}={directory / 'share'}",
        f"--script-sh={_start_script()}",
        "--qemu-opts",
        *layout.qemu_options(),
        *_ports(directory),
    ]
    (directory / "command.txt").write_text(shlex.join(vmm) + "\n")
    with _only_guest():
        return watch(vmm, directory, timeout_s=timeout_s, on_event=on_event or (lambda event: None))


def shell(kernel: Kernel, layout: Layout) -> int:
    """An interactive root shell in a guest, on this terminal."""
    with _only_guest():
        vmm = [*_virtme(kernel, layout), "--qemu-opts", "-no-reboot", *layout.qemu_options()]
        return subprocess.run(vmm, cwd=_CHECKOUT, check=False).returncode


def _virtme(kernel: Kernel, layout: Layout) -> list[str]:
    # Not vng: it puts a shell and another Python between QEMU and the process that QEMU dies with.
    return [
        *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "virtme.commands.run"),
        *("--qemu-bin", str(_HERE / "qemu-with-parent")),
        *("--kimg", str(kernel.image), "--mods", "auto"),
        # virtiofs brings a memory backend that would shape the guest's zones; KVM may be there
        # and still not run a stock guest.
        *("--force-9p", "--disable-kvm", "--user", "root", "--cwd", str(_CHECKOUT)),
        *("--memory", layout.memory, "--cpus", str(layout.cpus)),
        *(f"--overlay-rwdir={path}" for path in _WRITABLE if Path(path).is_dir()),
        *(f"--kopt={option}" for option in layout.kernel_options()),
    ]


def _network(metrics_port: int) -> tuple[str, ...]:
    """QEMU's own network, which has the guest's address, and nothing but this machine's port."""
    forward = f"hostfwd=tcp:127.0.0.1:{metrics_port}-{network.ADDRESS}:{network.METRICS_PORT}"
    return (
        "-netdev", f"user,id=lab,restrict=on,{forward}",
        "-device", "virtio-net-pci,netdev=lab,romfile=",
    )  # fmt: skip


def _ports(directory: Path) -> list[str]:
    """Two virtio ports that end in files: through a pipe the last lines are sometimes lost."""
    options = ["-device", "virtio-serial-pci,id=lab"]
    for name, file in ((channel.EVENTS, "channel.jsonl"), (channel.OUTPUT, "output.txt")):
        path = str(directory / file).replace(",", ",,")
        options += ["-chardev", f"file,id={file},path={path}"]
        options += ["-device", f"virtserialport,bus=lab.0,chardev={file},name={name}"]
    return options


def _new_directory(results: Path, name: str) -> Path:
    results.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        directory = results.resolve() / f"{name}-{number}"
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        (directory / "share").mkdir()
        return directory
    raise AssertionError("counted to the end of the numbers")


def _start_script() -> str:
    # virtme-ng's mount maps files page by page: without read-ahead `import bcc` takes 25 s, not 6.
    read_ahead = "for f in /sys/class/bdi/9p-*/read_ahead_kb; do echo 512 >$f; done"
    return f"{read_ahead}; exec /usr/bin/python3 -I -S {shlex.quote(str(_HERE / 'channel.py'))}"


def _write_job(
    share: Path, command: Sequence[str], environment: Mapping[str, str], working: Path = _CHECKOUT
) -> None:
    # A file, because the kernel's command line has room for 2 KiB in all.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    passed_on = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    job = {"command": list(command), "directory": str(working), "environment": passed_on}
    share.mkdir(parents=True, exist_ok=True)
    (share / "job.json").write_text(json.dumps(job, indent=1))


def _only_guest() -> AbstractContextManager[None]:
    """Guests queue up across all processes of this user: two at a time starve each other."""
    return locked(cache_dir() / "guest.lock")


def watch(vmm: Sequence[str], directory: Path, *, timeout_s: float, on_event: OnEvent) -> Outcome:
    """Follow a guest's run to its end, and decide which end it was."""
    started = time.monotonic()
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        on_event(event)

    with (directory / "console.txt").open("wb") as console:
        process = subprocess.Popen(
            vmm, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=console, cwd=_CHECKOUT
        )
        try:
            timed_out = _follow(process, directory / "channel.jsonl", started + timeout_s, note)
        finally:
            process.kill()
            process.wait()
    status, code = decide(events, read(directory / "console.txt"), timed_out=timed_out)
    return Outcome(
        status=status,
        code=code,
        events=tuple(events),
        directory=directory,
        seconds=time.monotonic() - started,
    )


def _follow(
    process: subprocess.Popen[bytes], path: Path, deadline: float, on_event: OnEvent
) -> bool:
    """Hand on the channel's events until the guest is gone.  True when its time ran out first."""
    lines = Lines(path)
    while time.monotonic() < deadline:
        gone = process.poll() is not None
        for event in map(parse_line, lines.new()):
            on_event(event)
            if exit_status([event]) is not None:
                deadline = min(deadline, time.monotonic() + _POWER_OFF_S)
        if gone:
            return False
        time.sleep(_POLL_S)
    return True


class Lines:
    """Whole lines of a file that something else is still writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()


_JOB_UNIT = """\
[Unit]
Description=the job of this guest
After=multi-user.target
[Service]
StandardOutput=journal+console
BindPaths={lab}/share:{share}
ExecStart=/usr/bin/python3 -I -S {lab}/tests/lab/channel.py
ExecStopPost=/usr/bin/systemctl poweroff --force
[Install]
WantedBy=multi-user.target
"""
# What a disk has and the share of virtme-ng has not: reading ahead, and files that SQLite and the
# journal can map.
_DISK_UNIT = """\
[Unit]
Description=a disk as a host has one
DefaultDependencies=no
RequiresMountsFor=/sys /var
Before=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for f in /sys/class/bdi/9p-*/read_ahead_kb; do echo 512 >$f; done'
ExecStart=/bin/mkdir -p /var/lib/pinwatch
ExecStart=/bin/mount -t tmpfs -o mode=755 none /var/lib/pinwatch
[Install]
WantedBy=basic.target
"""
_LAB = Path("/lab")


def boot_installed(
    kernel: Kernel,
    layout: Layout,
    root: Path,
    command: Sequence[str],
    *,
    results: Path,
    timeout_s: float = 900,
) -> Outcome:
    """Boot a directory that has an operating system of its own, with its systemd as init, and run
    the command in it when all that is enabled has been started.  Writes into that directory."""
    directory = _new_directory(results, f"{kernel.series.name}-{layout.name}")
    lab = root / _LAB.relative_to("/")
    shutil.copytree(_HERE.parent, lab / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    _write_job(lab / "share", command, {"PYTHONPATH": str(_LAB)}, working=_LAB)
    units = {
        "pinwatch-lab-disk.service": _DISK_UNIT,
        "pinwatch-lab.service": _JOB_UNIT.format(lab=_LAB, share=channel.SHARE),
    }
    for name, text in units.items():
        (root / "etc/systemd/system" / name).write_text(text)
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)
    modules = kernel.root / "lib/modules" / kernel.release
    shutil.copytree(modules, root / "lib/modules" / kernel.release, symlinks=True)
    subprocess.run(["chroot", root, "systemctl", "enable", "--quiet", *units], check=True)
    masked = ("getty.target", "serial-getty@ttyS0.service")
    vmm = [
        *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "virtme.commands.run"),
        *("--qemu-bin", str(_HERE / "qemu-with-parent")),
        *("--kimg", str(kernel.image), "--mods", "auto", "--root", str(root), "--rw", "--systemd"),
        *("--force-9p", "--disable-kvm", "--user", "root", "--memory", layout.memory),
        *("--cpus", str(layout.cpus)),
        *(f"--kopt=systemd.mask={unit}" for unit in masked),
        *(f"--kopt={option}" for option in layout.kernel_options()),
        *("--qemu-opts", *layout.qemu_options(), *_ports(directory)),
    ]
    (directory / "command.txt").write_text(shlex.join(vmm) + "\n")
    with _only_guest():
        return watch(vmm, directory, timeout_s=timeout_s, on_event=lambda event: None)
