"""Tell systemd how we are: one datagram to NOTIFY_SOCKET (sd_notify(3)). Silent without one."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send "READY=1" and the like."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(address)
            channel.send(state.encode())
        except OSError:
            pass  # the manager is gone; nothing depends on it
