"""The table of settings."""

from __future__ import annotations

import argparse

import pytest

from pinwatch import settings
from pinwatch.commands import run
from pinwatch.errors import UsageError
from pinwatch.model.vm import SeriesLimits


def test_flag_then_file_then_table() -> None:
    made = settings.make({"listen": "[::]:9", "record": None}, {"listen": "x:1", "record": "r"})
    assert (made.listen, made.record, made.sample_interval) == ("[::]:9", "r", 2.0)


def test_flags_of_prometheus_s_exporters_are_taken_too() -> None:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    given = ("--web.listen-address=[::]:9", "--web.config.file=w.yaml", "--web.max-requests=4")
    made = settings.make(vars(parser.parse_args(given)), {})
    assert (made.listen, made.web_config_file, made.web_max_requests) == ("[::]:9", "w.yaml", 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen = ", "Invalid value"),
        ("liste = 'x'", "unknown key 'liste'"),
        ("listen = 5", "listen must be a string"),
        ("sample_interval = true", "sample_interval must be a number"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        settings.parse_config(text, "/etc/p.toml")
    assert error.value.message.startswith("/etc/p.toml: ")
    assert error.value.hint


@pytest.mark.parametrize(
    "address", ["", "localhost", "x:", ":70000", "1.2.3.4:-1", "x:²", "x:" + "9" * 5000]
)
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        settings.make({"listen": address}, {})


def test_limits_are_the_same_without_settings() -> None:
    made = settings.make({}, {})
    limits = SeriesLimits(max_vms=int(made.max_vms), retention_ns=int(made.vm_retention * 1e9))
    assert limits == SeriesLimits()


@pytest.mark.parametrize("name", ["max_vms", "vm_retention"])
def test_limits_are_not_negative(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        settings.make({name: -1.0}, {})


@pytest.mark.parametrize("name", ["max_vms", "web_max_requests", "slow_pin_loops", "history_mb"])
@pytest.mark.parametrize("amount", [0.5, float("inf"), float("nan")])
def test_what_is_counted_is_at_least_1_and_has_an_end(name: str, amount: float) -> None:
    """Half a request at once is none: every scrape would get a 503."""
    with pytest.raises(UsageError, match=name):
        settings.make({name: amount}, {})


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_intervals(interval: float) -> None:
    with pytest.raises(UsageError):
        settings.make({"sample_interval": interval}, {})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"vmm_programs": "ok /usr/bin/my-vmm"}, "vmm_programs: '/usr/bin/my-vmm' is a path"),
        ({"vm_name_pattern": "(x"}, r"vm_name_pattern: missing \), unterminated subpattern"),
        ({"vm_name_pattern": "x"}, "vm_name_pattern has no group"),
    ],
)
def test_wrong_words_about_vmms(values: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        settings.make({}, values)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_right_words_about_vmms() -> None:
    text = "vmm_programs = 'my-vmm other'\nvm_name_pattern = '--vm-name (\\S+)'"
    made = settings.make({}, settings.parse_config(text, "p.toml"))
    assert made.vmm_programs.split() == ["my-vmm", "other"]
    assert made.vm_name_pattern == r"--vm-name (\S+)"
