"""The command line as a user meets it: a real process, its words and its exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pinwatch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pinwatch", *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def check_error(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    """One line what, one line what to do, never a traceback."""
    assert done.returncode == code, done
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_version_and_help() -> None:
    assert pinwatch("version").stdout.startswith("pinwatch ")
    assert "explain the last failed pin" in pinwatch("--help").stdout
    for command in ("run", "why", "metrics", "doctor", "replay"):
        assert pinwatch(command, "--help").returncode == 0
    assert "Explain the last failed pin, of all VMs or of one." in pinwatch("why", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["run", "--fast"], "unrecognized arguments: --fast"),
        (["why", "--last", "0"], "not a number above 0"),
        (["run", "--sample-interval", "often"], "invalid float"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], says: str) -> None:
    check_error(pinwatch(*arguments), 2, says)


def two_lines(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stderr.splitlines()
    assert len(lines) == 2, lines
    assert all(line.startswith("pinwatch: ") for line in lines)


def test_wrong_configuration_is_2(tmp_path: Path) -> None:
    config = tmp_path / "p.toml"
    config.write_text("liste = 'x'")
    done = pinwatch("--config", str(config), "run")
    check_error(done, 2, f"{config}: unknown key 'liste'")
    two_lines(done)
    check_error(pinwatch("--config", "/nope.toml", "run"), 2, "/nope.toml: no such file")
    check_error(pinwatch("--config", str(tmp_path), "run"), 2, "Is a directory")


def test_no_daemon_is_3(tmp_path: Path) -> None:
    done = pinwatch("why", "--socket", str(tmp_path / "none.sock"))
    check_error(done, 3, "no pinwatch daemon answers")
    two_lines(done)


@pytest.mark.parametrize("command", [["why"], ["top", "--once"], ["record"], ["metrics"]])
def test_who_asks_the_daemon_has_its_socket_from_its_configuration(
    command: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "p.toml"
    config.write_text(f"socket = '{tmp_path}/ours.sock'\n")
    done = pinwatch("--config", str(config), *command)
    check_error(done, 3, f"no pinwatch daemon answers on {tmp_path}/ours.sock: ")
    flag = pinwatch("--config", str(config), *command, "--socket", "/nope.sock")
    check_error(flag, 3, "no pinwatch daemon answers on /nope.sock: ")


def test_a_port_in_use_is_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = pinwatch("run", "--listen", address, "--socket", str(tmp_path / "s"))
    check_error(done, 3, f"cannot listen on {address}: Address already in use")
    two_lines(done)


def test_a_file_that_is_no_recording_is_2(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\xff\xfe")
    check_error(pinwatch("replay", str(other)), 2, "cannot replay")
    check_error(pinwatch("replay", "/nope"), 2, "No such file")


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in pinwatch("--debug", "why", "--socket", "/nope").stderr


def test_the_client_needs_no_compiler() -> None:
    """Replay and `why` must work where bcc is not installed."""
    script = (
        "import sys; sys.modules['bcc'] = None; from pinwatch.cli import main; main(['version'])"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("command", [["version"], ["why", "--replay"], ["replay"]])
def test_a_reader_that_has_seen_enough_is_no_error(command: list[str]) -> None:
    """As `| head` is, also of output that waits in a buffer until Python ends."""
    recording = [str(ROOT / "tests/replay/6.12-plain.jsonl.gz")] * (command != ["version"])
    read, write = os.pipe()
    os.close(read)
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pinwatch", *command, *recording],
            stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False, cwd=ROOT,
            env=environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
