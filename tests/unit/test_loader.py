"""What differs between compilers: bcc of each distribution that pinwatch runs on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pinwatch.errors import CannotRunError
from pinwatch.host.bpf import run_loader
from pinwatch.host.loader import fentry_of, load_program
from pinwatch.model.kernel import Mode

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("distribution", "version", "where"),
    [
        ("Debian 12", "0.26.0", ""),
        ("the last without", "0.27.0", ""),
        ("the first with", "0.28.0", "vmlinux__"),
        ("Ubuntu 24.04", "0.29.1", "vmlinux__"),
        ("Debian 13", "0.31.0", "vmlinux__"),
        ("two digits", "1.0", "vmlinux__"),
    ],
)
def test_what_stands_before_a_function_of_the_kernel(
    distribution: str, version: str, where: str
) -> None:
    assert fentry_of(version) == where, distribution


class Module:
    """A bcc module that only notes what it is asked for."""

    RAW_TRACEPOINT, TRACING, KPROBE = "raw_tracepoint", "tracing", "kprobe"

    def __init__(self, fentry_of: str) -> None:
        self.fentry_of = fentry_of
        self.asked: list[str] = []

    def load_func(self, name: str, _type: str) -> SimpleNamespace:
        self.asked.append(name)
        return SimpleNamespace(fd=7)


@pytest.mark.parametrize("where", ["", "vmlinux__"])
def test_a_program_is_asked_for_by_the_name_that_the_compiler_gave_it(where: str) -> None:
    """bpf/common.h pastes FENTRY_OF between kfunc__ and the function's name."""
    module = Module(where)
    for name, mode in (
        ("kfunc____folio_split", Mode.FENTRY),
        ("kretfunc____gup_longterm_locked", Mode.FENTRY),
        ("kprobe__warn_alloc", Mode.KPROBE),
    ):
        assert load_program(module, name, mode) == 7
    assert module.asked == [
        f"kfunc__{where}__folio_split",
        f"kretfunc__{where}__gup_longterm_locked",
        "kprobe__warn_alloc",
    ]
    macros = (ROOT / "bpf/common.h").read_text()
    for kind in ("kfunc__", "kretfunc__"):
        assert f"CAT(CAT({kind}, FENTRY_OF), SYM_##hook)" in macros


def test_what_lies_in_the_current_directory_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sudo pinwatch doctor`, typed where somebody else may write."""
    trap = tmp_path / "pinwatch"
    (trap / "host").mkdir(parents=True)
    for name in ("__init__.py", "host/__init__.py", "host/loader.py"):
        (trap / name).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("CapEff:\t0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotRunError, match="missing capabilities"):
        run_loader(bpf_dir=ROOT / "bpf", procfs=tmp_path, sysfs=tmp_path)
    assert not (tmp_path / "sprung").exists()
