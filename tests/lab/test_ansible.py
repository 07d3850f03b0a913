"""The role, applied by a real Ansible to a Debian; then that booted, with systemd as init."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import guest, kernels
from tests.lab.conftest import LabRun, as_json
from tests.lab.debian import Debian
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import Status

KERNEL = "6.12"
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    directory = tmp_path_factory.mktemp("ansible")
    yield Debian(directory)
    shutil.rmtree(directory)


def test_the_role_installs_changes_nothing_twice_and_says_what_it_would_do(fresh: Debian) -> None:
    foreseen = fresh.play("--check", pinwatch_start=False)
    assert foreseen.code == 0, foreseen.text
    assert foreseen.count("changed") > 0
    assert not (fresh.root / "opt/pinwatch").exists()
    first = fresh.play(pinwatch_start=False)
    assert first.code == 0, first.text
    assert first.count("changed") >= 8
    for again in (fresh.play(pinwatch_start=False), fresh.play("--check", pinwatch_start=False)):
        assert again.code == 0, again.text
        assert again.count("changed") == 0, again.text


def test_what_it_installed(fresh: Debian) -> None:
    assert fresh.run("/usr/local/bin/pinwatch", "version").startswith("pinwatch ")
    unit = fresh.root / "etc/systemd/system/pinwatch.service"
    assert unit.read_bytes() == Path("systemd/pinwatch.service").read_bytes()
    assert fresh.run("systemctl", "is-enabled", "pinwatch").strip() == "enabled"


def test_it_takes_settings_passwords_and_a_socket(fresh: Debian) -> None:
    settings = """{"pinwatch_settings": {"max_vms": 200, "vmm_programs": "my-\\"vmm\\""},
        "pinwatch_web_config": {"basic_auth_users": {"prometheus": "$2y$10$x"}},
        "pinwatch_socket": true, "pinwatch_socket_listen": ["[::]:19816"],
        "pinwatch_start": false}"""
    done = fresh.play("-e", settings)
    assert done.code == 0, done.text
    assert "$2y$10$x" not in done.text
    config = (fresh.root / "etc/pinwatch/pinwatch.toml").read_text().splitlines()[1:]
    assert config == [
        "max_vms = 200",
        'vmm_programs = "my-\\"vmm\\""',
        'web_config_file = "/etc/pinwatch/web.yml"',
    ]
    web = fresh.root / "etc/pinwatch/web.yml"
    assert (web.stat().st_mode & 0o777) == 0o600
    listen = fresh.root / "etc/systemd/system/pinwatch.socket.d/listen.conf"
    assert listen.read_text().splitlines()[-2:] == ["ListenStream=", "ListenStream=[::]:19816"]
    assert fresh.run("systemctl", "is-enabled", "pinwatch.socket").strip() == "enabled"


def test_it_takes_them_away_again(fresh: Debian) -> None:
    done = fresh.play(pinwatch_start=False)
    assert done.code == 0, done.text
    for gone in ("etc/pinwatch/web.yml", "etc/systemd/system/pinwatch.socket",
                 "etc/systemd/system/pinwatch.socket.d",
                 "etc/systemd/system/sockets.target.wants/pinwatch.socket"):  # fmt: skip
        assert not os.path.lexists(fresh.root / gone)
    again = fresh.play(pinwatch_start=False)
    assert again.count("changed") == 0, again.text


def test_it_refuses_what_pinwatch_does_not_support(fresh: Debian) -> None:
    done = fresh.play()
    assert done.code != 0
    assert "pinwatch cannot run on localhost: it needs systemd" in done.text
    assert done.count("changed") == 0


# ---- booted ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabRun]:
    """A host with a disk of its own, so to speak: installed by Ansible, then booted."""
    directory = tmp_path_factory.mktemp("booted")
    made = Debian(directory)
    # Emulated, a look takes thirty times as long.
    settings = '{"pinwatch_settings": {"placement_cpu_percent": 25}, "pinwatch_start": false}'
    done = made.play("-e", settings)
    assert done.code == 0, done.text
    outcome = guest.boot_installed(
        kernels.fetch(kernels.series(KERNEL)),
        LAYOUTS["oci"],
        made.root,
        ["/opt/pinwatch/bin/python", "-m", "tests.lab.inside.unit"],
        results=directory / "results",
    )
    yield LabRun(KERNEL, outcome)
    shutil.rmtree(made.root)


def test_systemd_boots_the_host_and_starts_the_unit(host: LabRun) -> None:
    assert host.outcome.status is Status.FINISHED, str(host.outcome)
    found = host.result("unit")
    assert found["first_process"] == "systemd"
    assert found["is_active"] == "active", as_json(found)
    properties = found["properties"]
    assert properties["NRestarts"] == "0"
    assert properties["UnitFileState"] == "enabled"
    # Type=notify: what the daemon said of itself when it was ready.
    assert re.match(r"\d+ hooks attached", properties["StatusText"]), as_json(found)
    started, ready = (
        int(properties[name])
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    assert ready > started


def test_no_hook_is_refused_under_the_units_hardening(host: LabRun) -> None:
    hooks = host.result("hooks")
    assert [name for name in hooks if 'mode="off"' in name] == [
        'pinwatch_hook_attached{hook="cma_finish",mode="off",symbol=""}'  # 6.12 is without CMA
    ]
    assert sum(hooks.values()) > 40
    assert "hooks have limits" not in host.result("unit")["journal"], "tracefs cannot be written"
    doctor = host.result("doctor")
    assert doctor["code"] == 0, as_json(doctor)


def test_a_failure_under_the_unit_is_told_with_its_reason(host: LabRun) -> None:
    found = host.result("failure")
    (failed,) = found["failures"]
    assert (failed["vm"]["name"], failed["reason"]) == ("web-01", "extra_ref_plain")
    assert failed["primary"]["facts"]["pfn"] is not None
    assert [event["id"] for event in found["events"]]
    (line,) = found["fields"]
    assert (line["PINWATCH_VM"], line["PINWATCH_REASON"]) == ("web-01", "extra_ref_plain")
    assert line["_SYSTEMD_UNIT"] == "pinwatch.service"


def test_a_vm_of_another_user_is_looked_at_under_the_unit(host: LabRun) -> None:
    found = host.result("failure")
    assert found["looked_s"] is not None
    assert not found["losses"], as_json(found["losses"])


def test_a_restart_ends_when_it_is_ready(host: LabRun) -> None:
    found = host.result("restart")
    assert (found["is_active"], found["ready"].strip()) == ("active", "ready"), as_json(found)
