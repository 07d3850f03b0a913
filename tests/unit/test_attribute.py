"""Names of VMs from command lines, hostile ones included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch.attribute.names import MAX_NAME, printable, vm_name
from pinwatch.attribute.qemu import is_qemu, resolve

QEMU = "/usr/bin/qemu-system-x86_64"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-name", "guest=web-01,debug-threads=on"], "web-01"),
        (["-name", "web-01"], "web-01"),
        (["-name", "web-01,process=x"], "web-01"),
        (["-name", "debug-threads=on,guest=web-01"], "web-01"),
        (["-name", "guest=a,,b=c,debug-threads=on"], "a,b=c"),
        (["-name", "guest=a,,,debug-threads=on"], "a,"),
        (["-uuid", "6f3a1c52"], "6f3a1c52"),
        (["--name", "x", "-m", "1G"], "x"),
        (["-name", "guest=~host"], "\\~host"),
        (["-name", "guest=a\nb"], "a\\x0ab"),
    ],
)
def test_names(words: list[str], name: str) -> None:
    vm = resolve([QEMU, *words])
    assert vm is not None
    assert vm.name == name
    assert vm.vmm == "qemu-system-x86_64"


@pytest.mark.parametrize(
    "cmdline",
    [
        [],
        ["/usr/bin/python3", "-name", "guest=web-01"],
        [QEMU, "-m", "1G"],
        [QEMU, "-name", "probe", "-machine", "none,accel=kvm"],
        [QEMU, "-name"],
        ["qemu-img", "-name", "x"],
    ],
)
def test_what_is_no_vm(cmdline: list[str]) -> None:
    assert resolve(cmdline) is None


@pytest.mark.parametrize("program", ["qemu-system-x86", "/usr/libexec/qemu-kvm", "/usr/bin/kvm"])
def test_programs(program: str) -> None:
    assert is_qemu(program)


@given(st.text())
def test_any_name_is_one_printable_line(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown) <= MAX_NAME


@given(st.text())
def test_no_vm_is_called_as_ours_are(name: str) -> None:
    assert not vm_name(name).startswith("~")


@given(st.lists(st.text()))
def test_any_command_line_is_resolved_or_not(words: list[str]) -> None:
    resolve([QEMU, *words])


def test_different_control_characters_stay_different() -> None:
    assert len({printable(c) for c in "\0\n\r\x1b\u2028\u2029\u202e\ufeff\x7f\x85"}) == 10


def test_a_cut_name_cannot_pass_for_a_shorter_one() -> None:
    assert printable("a" * 65536).endswith("…")
