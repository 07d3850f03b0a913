"""The guest's side of the lab: run one job, and state on purpose how it went.

Takes `job.json` from the directory that the host shares.  Gives JSON lines on the virtio port
`pinwatch.lab` (`start`, what the job sends, `end` with its exit status), the job's output on the
port `pinwatch.out`, and the files that it left in $PINWATCH_LAB_OUT, copied to the host once.
A job speaks by `send("mapped", pages=4096)`, a shell by `channel.py send mapped pages=4096`.
Never needs udev, or anything beyond the standard library of the distribution's own Python.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SHARE = Path("/run/pinwatch-lab")
EVENTS, OUTPUT = "pinwatch.lab", "pinwatch.out"
_DESCRIPTOR = "PINWATCH_LAB_FD"
_OUT = "PINWATCH_LAB_OUT"
_PATIENCE_S = 60  # emulated on a busy machine, a modprobe that is not in memory takes many seconds


def send(event: str, **fields: object) -> None:
    """One line to the host, from the job or from a child that inherited the descriptor."""
    line = json.dumps({"event": event, **fields}).encode() + b"\n"
    descriptor = int(os.environ[_DESCRIPTOR])
    while line:
        line = line[os.write(descriptor, line) :]


def out_dir() -> Path:
    """Where a job leaves files for the host: the guest's memory, copied once at the end."""
    return Path(os.environ[_OUT])


def descriptor() -> int:
    """What a job must hand on (`pass_fds`) for its children to `send`."""
    return int(os.environ[_DESCRIPTOR])


def _open_port(name: str) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while (port := _find_port(name)) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"no virtio port is called {name}")
        subprocess.run(["modprobe", "virtio_console"], check=False)
        time.sleep(0.1)
    # A port takes one opener, so this one is opened once and inherited.
    opened = os.open(port, os.O_WRONLY)
    os.set_inheritable(opened, True)
    return opened


def _find_port(name: str) -> Path | None:
    for entry in Path("/sys/class/virtio-ports").glob("*/name"):
        if entry.read_text().strip() == name:
            return Path("/dev") / entry.parent.name
    return None


def _run_job() -> None:
    os.environ[_DESCRIPTOR] = str(_open_port(EVENTS))
    output = _open_port(OUTPUT)
    job = json.loads((SHARE / "job.json").read_text())
    os.environ.update(job["environment"], **{_OUT: "/run/pinwatch-lab-out"})
    out_dir().mkdir()
    send("start", release=os.uname().release, uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME))
    try:
        status = subprocess.run(
            job["command"],
            cwd=job["directory"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[descriptor()],
            check=False,
        ).returncode
    except OSError as error:
        send("error", error=str(error))
        status = 127
    shutil.copytree(out_dir(), SHARE, dirs_exist_ok=True)
    send("end", status=status)


def _main(arguments: list[str]) -> None:
    match arguments:
        case ["send", event, *pairs]:
            fields = dict(pair.split("=", 1) for pair in pairs)
            send(event, **fields)
        case []:
            _run_job()
        case _:
            raise SystemExit("usage: channel.py [send EVENT KEY=VALUE...]")


if __name__ == "__main__":
    _main(sys.argv[1:])
