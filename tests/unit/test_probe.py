"""Choosing symbols and modes for a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.errors import CannotRunError
from pinwatch.host import probe
from pinwatch.host.compat import HOOKS, Hook
from pinwatch.model.kernel import Mode


class FakeBtf:
    """Only the questions that a plan asks."""

    def __init__(self, functions: dict[str, int]) -> None:
        self._functions = functions

    def nr_args(self, name: str) -> int | None:
        return self._functions.get(name)

    tracepoint_nr_args = nr_args


HOOK = Hook(name="split", symbols=("new", "old"), modes=(Mode.FENTRY, Mode.KPROBE), sees="splits")


def plan(
    functions: dict[str, int], symbols: dict[str, int], hook: Hook = HOOK
) -> probe.PlannedHook:
    return probe.plan_hook(hook, FakeBtf(functions), symbols)  # type: ignore[arg-type]


def test_the_newest_symbol_that_is_there_wins() -> None:
    assert plan({"new": 2, "old": 1}, {}).symbol == "new"
    assert plan({"old": 1}, {}).symbol == "old"


def test_a_function_missing_from_btf_can_still_be_a_kprobe() -> None:
    chosen = plan({}, {"old": 1})
    assert (chosen.symbol, chosen.modes) == ("old", (Mode.KPROBE,))


def test_a_kprobe_has_six_arguments_in_registers() -> None:
    assert plan({"new": 7}, {"new": 1}).modes == (Mode.FENTRY,)


def test_nothing_found_says_what_was_tried() -> None:
    chosen = plan({}, {})
    assert chosen.modes == ()
    assert "new, old" in chosen.reason


def test_a_module_may_load_later() -> None:
    hook = Hook(
        name="vfio", symbols=("ioctl",), modes=(Mode.KPROBE,), sees="maps", modules=("vfio",)
    )
    assert plan({}, {}, hook).symbol == "ioctl"


def test_symbols_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "kallsyms").write_text(
        "ffffffff81000000 T not_warn_alloc\n"
        "ffffffff81000010 T warn_alloc_show\n"
        "ffffffff81000020 T warn_alloc\n"
        "ffffffffc0000030 t vfio_ioctl\t[vfio]\n"
    )
    wanted = frozenset({"warn_alloc", "vfio_ioctl", "absent"})
    assert probe.read_symbols(tmp_path, wanted) == {
        "warn_alloc": 0xFFFFFFFF81000020,
        "vfio_ioctl": 0xFFFFFFFFC0000030,
    }


def test_a_kernel_without_btf_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="no type information"):
        probe.read_btf(tmp_path)
    (tmp_path / "kernel/btf").mkdir(parents=True)
    (tmp_path / "kernel/btf/vmlinux").write_bytes(b"garbage")
    with pytest.raises(CannotRunError, match="cannot use"):
        probe.read_btf(tmp_path)


def test_the_table_of_hooks_is_sound() -> None:
    assert len({hook.name for hook in HOOKS}) == len(HOOKS)
    for hook in HOOKS:
        assert hook.symbols, hook
        assert hook.modes, hook
        assert hook.entry or hook.exit
        assert hook.sees
