"""Does the daemon's Unix socket give the page that is named? For probes of kubelet, which knows no
password and has no client certificate."""

import socket
import sys

client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
client.connect("/run/pinwatch/pinwatch.sock")
client.sendall(f"GET {sys.argv[1]} HTTP/1.0\r\n\r\n".encode())
status = client.makefile().readline()
sys.exit(None if " 200 " in status else status)
