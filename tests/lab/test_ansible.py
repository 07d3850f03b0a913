"""The role, applied by a real Ansible to a Debian; then that booted, with systemd as init."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.debian import Debian

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


def test_it_refuses_what_pinwatch_does_not_support(fresh: Debian) -> None:
    done = fresh.play()
    assert done.code != 0
    assert "pinwatch cannot run on localhost: it needs systemd" in done.text
    assert done.count("changed") == 0
