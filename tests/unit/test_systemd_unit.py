"""The unit: systemd's own word on it, and its agreement with what the daemon does and needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pinwatch.cli import COMMANDS
from pinwatch.errors import CannotRunError, UsageError
from pinwatch.host.probe import missing_capabilities
from pinwatch.settings import DEFAULT_CONFIG, TABLE

UNIT = Path(__file__).resolve().parents[2] / "systemd/pinwatch.service"
EXPOSURE_CEILING = 34  # tenths of the figure that `systemd-analyze security` gives


def values(directive: str) -> list[str]:
    """All values of a directive, in order."""
    return re.findall(rf"^{directive}=(.*)$", UNIT.read_text(), re.M)


def value(directive: str) -> str:
    """The value of a directive that stands there once."""
    (found,) = values(directive)
    return found


def capabilities() -> set[str]:
    """All that the unit leaves the daemon."""
    return {name for line in values("CapabilityBoundingSet") for name in line.split()}


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze. A test fails, and is not skipped, where there is none."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.fail("no systemd-analyze on PATH: install the package systemd")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_accepts_every_line(tmp_path: Path) -> None:
    """Of a copy that starts a program which is there: the real one is installed later."""
    program = tmp_path / "pinwatch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    installed = value("ExecStart").split()[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(f"ExecStart={installed} ", f"ExecStart={program} "))
    done = systemd_analyze("verify", "--man=no", "--recursive-errors=no", copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure_stays_below_its_ceiling() -> None:
    done = systemd_analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_CEILING}", UNIT
    )
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout


def test_it_starts_the_daemon() -> None:
    program, command = value("ExecStart").split()
    assert Path(program).is_absolute()
    assert Path(program).name == "pinwatch"
    assert command == "run"
    assert command in COMMANDS
    assert (value("Type"), value("NotifyAccess")) == ("notify", "main")


def test_the_watchdog_waits_for_many_samples() -> None:
    """The daemon says WATCHDOG=1 after each."""
    interval = next(row.default for row in TABLE if row.name == "sample_interval")
    assert int(value("WatchdogSec")) >= 10 * float(interval)


def test_what_cannot_heal_is_not_tried_again() -> None:
    codes = {str(error.exit_code) for error in (UsageError, CannotRunError)}
    assert set(value("RestartPreventExitStatus").split()) == codes
    assert value("Restart") == "on-failure"


def test_directories_are_those_of_the_settings() -> None:
    socket = next(str(row.default) for row in TABLE if row.name == "socket")
    assert Path("/run") / value("RuntimeDirectory") == Path(socket).parent
    assert Path("/etc") / value("ConfigurationDirectory") == Path(DEFAULT_CONFIG).parent


def test_it_has_no_capability_but_these() -> None:
    """Each has its reason in the unit; one more needs one too."""
    tracing = {"CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"}
    looking = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
    assert capabilities() == tracing | looking | {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}


def test_it_has_the_capabilities_that_the_daemon_asks_for(tmp_path: Path) -> None:
    """As /proc/self/status would show them; systemd knows their numbers. Without CAP_SYS_ADMIN,
    which stands for all, and which an operator may take away where kprobes work without it."""
    given = {name.lower() for name in capabilities()} - {"cap_sys_admin"}
    known = re.findall(r"^(cap_\w+) +(\d+)$", systemd_analyze("capability").stdout, re.M)
    held = sum(1 << int(number) for name, number in known if name in given)
    assert held.bit_count() == len(given)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"CapEff:\t{held:016x}\n")
    assert missing_capabilities(tmp_path) == []


@pytest.mark.parametrize(
    ("directive", "setting"),
    [
        ("PrivateUsers", "no"),  # capabilities would not count for BPF
        ("ProtectKernelTunables", "no"),  # hides /proc/kallsyms
        ("ProtectKernelLogs", "no"),  # takes CAP_SYSLOG away
        ("ProtectProc", "default"),  # hides QEMU
        ("ProcSubset", "all"),  # hides /proc/vmstat
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
    ],
)
def test_hardening_stops_short_of_what_blinds_the_daemon(directive: str, setting: str) -> None:
    assert value(directive) == setting


def test_the_last_word_of_the_filter_allows_bpf() -> None:
    assert value("SystemCallErrorNumber") == "EPERM"
    assert values("SystemCallFilter")[-1].split() == ["bpf", "perf_event_open"]
