"""How a run ended, from consoles and channels that real guests left."""

from pathlib import Path

import pytest

from tests.lab.errors import LabError
from tests.lab.outcome import Event, Outcome, Status, decide, emulator_broke, parse_line, tail

DATA = Path(__file__).parent.parent / "lab" / "data"


def events(name: str) -> list[Event]:
    return [parse_line(line) for line in (DATA / f"{name}.channel.jsonl").read_text().splitlines()]


def console(name: str) -> str:
    return (DATA / f"{name}.console.txt").read_text()


def outcome(directory: Path, status: Status, code: int | None = None) -> Outcome:
    return Outcome(status=status, code=code, events=(), directory=directory, seconds=21.4)


@pytest.mark.parametrize(
    ("name", "timed_out", "expected"),
    [
        ("finished", False, (Status.FINISHED, 0)),
        ("finished", True, (Status.FINISHED, 0)),  # it said so, and then hung while powering off
        ("panic", False, (Status.PANIC, None)),
        ("panic", True, (Status.PANIC, None)),
        ("lost", False, (Status.LOST, None)),
        ("lost", True, (Status.TIMEOUT, None)),
    ],
)
def test_the_end_that_a_saved_run_had(
    name: str, timed_out: bool, expected: tuple[Status, int | None]
) -> None:
    assert decide(events(name), console(name), timed_out=timed_out) == expected


def test_a_panic_while_powering_off_is_no_success() -> None:
    assert decide(events("finished"), console("panic"), timed_out=False) == (Status.PANIC, None)


def test_silence_is_no_success() -> None:
    assert decide([], "", timed_out=False) == (Status.LOST, None)


def test_the_status_is_the_commands() -> None:
    assert decide([parse_line('{"event": "end", "status": 7}')], "", timed_out=False)[1] == 7


@pytest.mark.parametrize("line", ['{"event": "end", "st', "[1]", '{"status": 0}', '{"event": 1}'])
def test_what_is_no_event_stays_visible(line: str) -> None:
    assert parse_line(line) == {"event": "garbled", "line": line}


@pytest.mark.parametrize(
    "event", [{"event": "end", "status": "0"}, {"event": "end"}, {"event": "step", "status": 0}]
)
def test_only_an_end_with_a_status_is_the_end(event: Event) -> None:
    assert decide([event], "", timed_out=False) == (Status.LOST, None)


def test_require_passes_success_on(tmp_path: Path) -> None:
    fine = outcome(tmp_path, Status.FINISHED, 0)
    assert fine.require() is fine


def test_require_says_what_ended_and_shows_the_last_words(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text("first\nmapped 3 of 4\n")
    (tmp_path / "console.txt").write_text(console("panic"))
    with pytest.raises(LabError) as caught:
        outcome(tmp_path, Status.PANIC).require()
    text = str(caught.value)
    assert text.startswith("guest: kernel panic after 21 s\n")
    assert f"{tmp_path}/output.txt:\n    first\n    mapped 3 of 4\n" in text
    assert "sysrq triggered crash" in text


def test_require_names_a_commands_status(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="command ended with 3 after 21 s"):
        outcome(tmp_path, Status.FINISHED, 3).require()


def test_tail_keeps_the_end() -> None:
    assert tail("a\nb\nc\n", 2) == "    b\n    c"


def test_named_picks_events() -> None:
    run = Outcome(
        status=Status.FINISHED,
        code=0,
        events=tuple(events("finished")),
        directory=DATA,
        seconds=1,
    )
    assert run.named("hello") == [{"event": "hello", "n": 1}]


def test_only_a_breakpoint_out_of_nowhere_is_the_emulators() -> None:
    oops = "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\nKernel panic - not syncing: Fatal exception"
    assert emulator_broke(Status.PANIC, oops)
    assert not emulator_broke(Status.FINISHED, oops)
    assert not emulator_broke(Status.PANIC, "Kernel panic - not syncing: sysrq triggered crash")
