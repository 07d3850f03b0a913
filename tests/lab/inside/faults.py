"""What goes wrong on a host, done on purpose: `python -m tests.lab.inside.faults`.

Sends a line for each fault: what pinwatch said, its exit code, and what it counted. Judged by
tests/lab/test_faults.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.lab import channel
from tests.lab.inside import host, vfio

Result = dict[str, Any]


def _run(*prefix: str) -> Result:
    """`pinwatch run` behind a prefix that spoils something; it must end by itself."""
    socket_path = "/tmp/fault.sock"
    command = [*prefix, *host.PINWATCH, "run", "--socket", socket_path]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, text=True)
    left = Path(socket_path).exists()
    return {"code": done.returncode, "stderr": done.stderr, "stdout": done.stdout, "left": left}


def _hidden(path: str) -> tuple[str, ...]:
    """A mount namespace in which a directory is empty."""
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {path} && exec "$@"', "sh")


def no_btf() -> Result:
    return _run(*_hidden("/sys/kernel/btf"))


def no_bcc() -> Result:
    return _run(*_hidden("/usr/lib/python3/dist-packages/bcc"))


def no_permission() -> Result:
    return _run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def no_bpf() -> Result:
    """Containers' default seccomp filters refuse bpf(2) whatever the capabilities."""
    return _run(sys.executable, "-m", "tests.lab.inside.filtered")


def ready_is_true() -> Result:
    """READY=1 reaches the service manager when /metrics answers and hooks are attached."""
    path = "/tmp/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(host.READY_S)
        daemon = subprocess.Popen(
            [*host.PINWATCH, "run"], env={**os.environ, "NOTIFY_SOCKET": path}
        )
        message = manager.recv(4096).decode()
        at_ready = host.metrics()
        watchdog = manager.recv(4096).decode()
    second = _run()
    doctor = _doctor()
    behind_s = _behind_after_clock_was_set()
    daemon.send_signal(signal.SIGTERM)
    return {
        "message": message,
        "watchdog": watchdog,
        "hooks": {name: n for name, n in at_ready.items() if "hook_attached" in name},
        "second": second,
        "doctor": doctor,
        "behind_s": behind_s,
        "code": daemon.wait(60),
    }


def _behind_after_clock_was_set() -> float:
    """How far the time of the last reading is from the host's, seconds after that was set by an
    hour."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600)
    time.sleep(10)
    return time.time() - host.metrics()["pinwatch_sample_timestamp_seconds{}"]


def _doctor() -> Result:
    command = [*host.PINWATCH, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return {"code": done.returncode, "checks": json.loads(done.stdout)}


def no_tracefs() -> Result:
    """Return probes have ten slots then, and 24 threads map at once, and end."""
    subprocess.run(["umount", "/sys/kernel/tracing"], check=True)
    vfio.load_modules()
    vfio.bind_edu()
    daemon = host.Daemon()
    done = host.run_workload("crowd", mib=2, threads=24)
    metrics = host.settled_metrics()
    doctor = _doctor()
    log, code = daemon.log(), daemon.stop()
    subprocess.run(["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"], check=True)
    return {**done, "metrics": metrics, "doctor": doctor, "log": log, "code": code}


def killed_in_the_middle() -> Result:
    """kill -9 while a process maps, and a new daemon: the workload must not notice."""
    vfio.load_modules()
    vfio.bind_edu()
    first = host.Daemon()
    # Its turn comes when the daemon has nothing to do: the guest has one CPU.
    command = ["nice", "-n", "19", sys.executable, "-m", "tests.lab.inside.workload", "maps"]
    enough = Path("/tmp/enough")
    arguments = json.dumps({"mib": 16, "times": 10**6, "fresh": False, "until": str(enough)})
    with subprocess.Popen([*command, arguments], stdout=subprocess.PIPE) as workload:
        while host.metrics().get(PINS, 0) < 3:
            time.sleep(0.2)
        before = host.metrics()[PINS]
        first.stop(signal.SIGKILL)
        second = host.Daemon()
        while workload.poll() is None and host.metrics().get(PINS, 0) < 3:
            time.sleep(0.2)
        after = host.settled_metrics().get(PINS, 0)
        enough.touch()
        output, _ = workload.communicate()
    started = re.search(r"^process_start_time_seconds (\S+)$", host.get("/metrics"), re.M)
    assert started
    code = second.stop()
    done = json.loads(output)
    defined = Path("/sys/kernel/tracing/kprobe_events").read_text()
    return {
        "maps": len(done["errors"]), "failed": sum(map(bool, done["errors"])),
        "before": before, "after": after, "code": code,
        "started": float(started[1]), "second_ready_s": second.ready_s,
        "left": [line for line in defined.splitlines() if "pinwatch" in line],
    }  # fmt: skip


PINS = 'pinwatch_longterm_pins_total{source="vfio_type1",vm="~host"}'
FAULTS = (no_btf, no_bcc, no_permission, no_bpf, ready_is_true, no_tracefs, killed_in_the_middle)


def main() -> int:
    for fault in FAULTS:
        try:
            result = fault()
        except Exception:
            result = {"broken": traceback.format_exc()[-3000:]}
        channel.send("scenario", name=fault.__name__, result=result)
        Path("/tmp/notify").unlink(missing_ok=True)
    channel.send("stopped", code=0, memory={})
    return 0


if __name__ == "__main__":
    sys.exit(main())
