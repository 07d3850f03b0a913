"""The guest's network, where it has one: a Prometheus outside scrapes the daemon through it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ADDRESS = "10.0.2.15"  # where QEMU's own network sends what it forwards
METRICS_PORT = 19816


def up() -> bool:
    """The only network card has its address now; False when there is none."""
    subprocess.run(["modprobe", "virtio_net"], check=True)
    cards = [path.parent.name for path in Path("/sys/class/net").glob("*/device")]
    if not cards:
        return False
    (card,) = cards
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/24", "dev", card], check=True)
    subprocess.run(["ip", "link", "set", card, "up"], check=True)
    return True
