"""Names of kernel addresses."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

import pytest

from pinwatch.host.kallsyms import Namer, resolve
from tests.monitoring.servers import wait_for

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81001000 t first
ffffffff81001800 d not_code
ffffffff81002000 W second
ffffffffc0a02000 t in_module\t[vivid]
ffffffffc0a01000 T early_in_module\t[vivid]
"""


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    return tmp_path


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0xFFFFFFFF81000000, "_stext"),
        (0xFFFFFFFF81001900, "first"),
        (0xFFFFFFFF81002FFF, "second"),
        (0xFFFFFFFFC0A01004, "early_in_module [vivid]"),
        (0xFFFFFFFFC0A02004, "in_module [vivid]"),
        (0x1000, "0x1000"),
    ],
)
def test_the_function_an_address_lies_in(procfs: Path, address: int, name: str) -> None:
    assert resolve(procfs, [address, 0xFFFFFFFF81001000])[address] == name


def test_several_in_one_function(procfs: Path) -> None:
    addresses = [0xFFFFFFFF81001004, 0xFFFFFFFF81001008, 0xFFFFFFFFC0A02004]
    assert list(resolve(procfs, addresses).values()) == ["first", "first", "in_module [vivid]"]


def test_hidden_addresses_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "kallsyms").write_text("0000000000000000 T _stext\n0000000000000000 t first\n")
    assert resolve(tmp_path, [0xFFFFFFFF81000004]) == {0xFFFFFFFF81000004: "0xffffffff81000004"}


def test_no_file(tmp_path: Path) -> None:
    assert resolve(tmp_path, [16]) == {16: "0x10"}


def test_names_come_later_and_once(procfs: Path) -> None:
    namer, named = Namer(procfs), dict[int, str]()
    namer.ask([0xFFFFFFFF81001004])
    namer.ask([0xFFFFFFFF81001004, 0xFFFFFFFF81002004])
    deadline = time.monotonic() + 10
    while len(named) < 2 and time.monotonic() < deadline:
        named.update(namer.take())
        namer.ask(named)
    assert named == {0xFFFFFFFF81001004: "first", 0xFFFFFFFF81002004: "second"}
    assert namer.take() == {}


def test_without_a_thread_they_come_later_still(
    procfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TasksMax= of the unit is 64, and each request has one."""
    namer = Namer(procfs)
    namer.ask([0xFFFFFFFF81001004])
    with monkeypatch.context() as full:
        full.setattr(Thread, "start", no_thread)
        assert namer.take() == {}
    wait_for(namer.take, "it was forgotten")


def no_thread(_self: Thread) -> None:
    raise RuntimeError("can't start new thread")
