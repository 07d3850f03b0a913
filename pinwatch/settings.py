"""All settings in one table: flag, configuration key, default and help come from the same row.

A value is taken from the command line, else from the TOML file, else from the table. Takes text,
gives a frozen Settings; UsageError names the file and the key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from typing import Any

from pinwatch.errors import UsageError

DEFAULT_CONFIG = "/etc/pinwatch/pinwatch.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table; `name` is the field of Settings, the flag and the key; `flag_elsewhere`
    is what Prometheus's own exporters call that flag."""

    name: str
    default: str | float
    help: str
    metavar: str = "PATH"
    flag_elsewhere: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        own = "--" + self.name.replace("_", "-")
        return (own, self.flag_elsewhere) if self.flag_elsewhere else (own,)


TABLE = (
    Setting(
        "listen",
        "127.0.0.1:19816",
        "address of /metrics; [::]:PORT for all",
        "HOST:PORT",
        "--web.listen-address",
    ),
    Setting(
        "web_config_file",
        "",
        "TLS and passwords, in exporter-toolkit's format",
        flag_elsewhere="--web.config.file",
    ),
    Setting(
        "web_max_requests",
        16.0,
        "answered at once; others get a 503",
        "COUNT",
        "--web.max-requests",
    ),
    Setting("socket", "/run/pinwatch/pinwatch.sock", "Unix socket for `why` and `top`"),
    Setting("record", "", "write a recording of all that is seen to this file (gzip)"),
    Setting("state_dir", "/var/lib/pinwatch", "where the history lies; empty for none"),
    Setting("history_mb", 200.0, "and how large it may become", "MIB"),
    Setting("history_days", 30.0, "and how old", "DAYS"),
    Setting("sample_interval", 2.0, "seconds between readings of the kernel's counters", "SECONDS"),
    Setting("max_vms", 1000.0, "VMs with series of their own; others share ~other", "COUNT"),
    Setting("vm_retention", 1800.0, "series of a VM stay so long after its end", "SECONDS"),
    Setting("slow_pin_seconds", 1.0, "a pin that works but takes longer is kept", "SECONDS"),
    Setting("slow_pin_loops", 8.0, "and one that starts again more often", "COUNT"),
    Setting(
        "placement_cpu_percent", 0.2, "of one core, to look at VMs' memory; 0 for never", "PERCENT"
    ),
    Setting("vmm_programs", "", "more programs that run VMs, with spaces between", "NAMES"),
    Setting(
        "vm_name_pattern",
        "",
        "regular expression whose first group is a VM's name in its command line",
        "REGEX",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force."""

    listen: str
    web_config_file: str
    web_max_requests: float
    socket: str
    record: str
    state_dir: str
    history_mb: float
    history_days: float
    sample_interval: float
    max_vms: float
    vm_retention: float
    slow_pin_seconds: float
    slow_pin_loops: float
    placement_cpu_percent: float
    vmm_programs: str
    vm_name_pattern: str


_ABOVE_0 = ("history_days", "slow_pin_seconds")
_AT_LEAST_1 = ("history_mb", "web_max_requests", "max_vms", "slow_pin_loops")
_BELOW = 1e9  # infinity is no number that one can count to


def parse_config(text: str, path: str) -> dict[str, Any]:
    """The values of a TOML file. UsageError on a syntax error, an unknown key or a wrong type."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}", hint="the file is TOML: key = value") from None
    known = {row.name: row for row in TABLE}
    for key, value in values.items():
        if key not in known:
            raise UsageError(
                f"{path}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(known))}"
            )
        wanted = (int, float) if isinstance(known[key].default, float) else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            kind = "a number" if wanted == (int, float) else "a string"
            raise UsageError(f"{path}: {key} must be {kind}", hint="see `pinwatch run --help`")
    return values


def make(flags: dict[str, Any], config: dict[str, Any]) -> Settings:
    """Flags that were given win over the file, the file over the table."""
    chosen = {row.name: row.default for row in TABLE} | config
    chosen |= {key: value for key, value in flags.items() if value is not None}
    settings = Settings(**{field.name: chosen[field.name] for field in fields(Settings)})
    listen_address(settings.listen)
    if not 0.1 <= settings.sample_interval < _BELOW:
        raise UsageError("sample_interval must be at least 0.1 seconds", hint="2 is the default")
    if not 0 <= settings.vm_retention < _BELOW:
        raise UsageError("vm_retention must not be below 0", hint="1800 is the default")
    if not 0 <= settings.placement_cpu_percent <= 100:
        raise UsageError("placement_cpu_percent is from 0 to 100", hint="0.2 is the default")
    for name in _ABOVE_0:
        if not 0 < getattr(settings, name) < _BELOW:
            raise UsageError(f"{name} must be above 0", hint="see `pinwatch run --help`")
    for name in _AT_LEAST_1:
        if not 1 <= getattr(settings, name) < _BELOW:
            raise UsageError(f"{name} must be at least 1", hint="see `pinwatch run --help`")
    _check_programs(settings.vmm_programs)
    _check_pattern(settings.vm_name_pattern)
    return settings


def _check_programs(text: str) -> None:
    for name in text.split():
        if "/" in name:
            raise UsageError(
                f"vmm_programs: {name!r} is a path", hint="give the name of the program only"
            )


def _check_pattern(text: str) -> None:
    hint = r"as in vm_name_pattern = '--vm-name (\S+)'"
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise UsageError(f"vm_name_pattern: {error}", hint=hint) from None
    if text and not groups:
        raise UsageError("vm_name_pattern has no group for the name", hint=hint)


def listen_address(text: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT as a pair. UsageError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"listen address {text!r} is not HOST:PORT", hint="as in 127.0.0.1:19816")
    return host.strip("[]"), int(port)
