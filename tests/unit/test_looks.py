"""Who is looked at next, how exactly, and for how much CPU time."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinwatch.errors import CannotRunError
from pinwatch.host import clock
from pinwatch.host import looks as module
from pinwatch.host.looks import Looks, Subject
from pinwatch.model.forecast import Case
from pinwatch.model.kernel import Mode
from pinwatch.model.placement import Limits
from pinwatch.model.sample import TaskKey
from pinwatch.recording import Looked, Surveyed
from tests.monitoring.servers import wait_for
from tests.unit.make import free, placement

ROOT = Path("/nowhere")


class Host:
    """A host whose processes are looked at for so long each."""

    def __init__(self, cpu_s: float = 0.0) -> None:
        self.cpu_s = cpu_s
        self.looked: list[int] = []
        self.errors: list[float] = []
        self.stuck: dict[int, threading.Event] = {}
        self.unreadable = ""

    def __call__(self, **_: object) -> Host:
        if self.unreadable:
            raise CannotRunError(self.unreadable)
        return self

    free = free()

    def refresh(self) -> None:
        self.__call__()

    def look(self, tgid: int, *, managed: bool, error: float) -> Case | None:
        self.looked.append(tgid)
        self.errors.append(error)
        if tgid in self.stuck:
            self.stuck[tgid].wait()
        end = clock.thread_cpu_s() + self.cpu_s
        while clock.thread_cpu_s() < end:
            pass
        return Case(placement=placement(), free=self.free, limits=Limits())


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host()
    monkeypatch.setattr(module, "Survey", made)
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    yield made
    for event in made.stuck.values():
        event.set()


def subjects(*tgids: int) -> list[Subject]:
    return [Subject(TaskKey(tgid, tgid), managed=False) for tgid in tgids]


def watched(
    percent: float, seconds: float, *tgids: int, until: Callable[[Looks], bool] = lambda _: True
) -> Looks:
    """For so long, and on a machine that is busy until that is so."""
    looks = Looks(proc=ROOT, sysfs=ROOT, percent=percent)
    looks.watch(subjects(*tgids))
    looks.start()
    time.sleep(seconds)
    wait_for(lambda: until(looks), "what is looked at")
    looks.close()
    return looks


def is_off(looks: Looks) -> bool:
    return looks.states[0].mode is Mode.OFF


def test_it_is_one_after_the_other(host: Host) -> None:
    found = list(watched(100, 0, 1, 2, 3, until=lambda _: len(host.looked) > 8).take())
    assert isinstance(found[0], Surveyed)
    seen = [item.task.tgid for item in found if isinstance(item, Looked)]
    assert len(seen) > 6
    assert seen == ([1, 2, 3] * len(seen))[: len(seen)]


def test_it_takes_no_more_than_its_share(host: Host) -> None:
    host.cpu_s, began = 0.01, time.monotonic()
    watched(10, 1.0, 1, until=lambda _: len(host.looked) >= 5)
    seconds = time.monotonic() - began
    assert len(host.looked) <= 10 * seconds + 1  # 10 ms each, so ten in a second


def test_nothing_is_looked_at_when_nothing_may_be_spent(host: Host) -> None:
    looks = watched(0, 0.1, 1)
    assert not list(looks.take())
    assert looks.states[0].mode is Mode.OFF


def test_one_that_does_not_come_back_is_left_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    host.stuck = {1: threading.Event()}
    looks = Looks(proc=ROOT, sysfs=ROOT, percent=100)
    looks.watch(subjects(1, 2))
    looks.start()
    wait_for(lambda: host.looked.count(2) > 3, "the other is not looked at")
    assert looks.given_up == 1
    assert host.looked.count(1) == 1
    host.stuck.pop(1).set()
    wait_for(lambda: host.looked.count(1) > 1, "it is looked at no more")
    looks.close()


def test_what_cannot_be_read_is_told_until_it_can(host: Host) -> None:
    host.unreadable = "cannot read /proc/kpageflags"
    looks = watched(100, 0, 1, until=is_off)
    (state,) = looks.states
    assert (state.mode, state.reason) == (Mode.OFF, "cannot read /proc/kpageflags")
    assert not host.looked
    host.unreadable = ""
    assert watched(100, 0.1, 1, until=lambda _: bool(host.looked)).states[0].attached


def test_what_a_look_was_refused_is_told_until_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_SYS_ADMIN there are no page frames, and a look only each ten seconds."""

    def look(tgid: int, **_: object) -> None:
        raise CannotRunError("the kernel shows no page frames")

    monkeypatch.setattr(module, "AGAIN_S", 10.0)
    monkeypatch.setattr(host, "look", look)
    looks = watched(100, 1.5, 1)
    assert looks.states[0].reason == "the kernel shows no page frames"


def test_a_process_that_cannot_be_read_ends_no_looking(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/PID/pagemap without memory for its buffer is."""

    def look(tgid: int, **_: object) -> None:
        host.looked.append(tgid)
        if tgid == 1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(host, "look", look)
    looks = watched(100, 0.3, 1, until=is_off)
    assert "Cannot allocate memory" in looks.states[0].reason
    host.looked.clear()
    watched(100, 0, 1, 2, until=lambda _: 2 in host.looked)


def test_more_vms_are_looked_at_less_exactly(host: Host) -> None:
    for count, expected in ((1, 0.01), (100, 0.04), (5000, 0.05)):
        host.errors.clear()
        looks = Looks(proc=ROOT, sysfs=ROOT, percent=0.2)
        looks.watch(subjects(*range(1, count + 1)))
        looks.start()
        wait_for(lambda: host.errors, "nothing is looked at")
        looks.close()
        assert host.errors[0] == pytest.approx(expected, rel=0.2)


def test_a_new_vm_comes_first(host: Host) -> None:
    looks = Looks(proc=ROOT, sysfs=ROOT, percent=100)
    looks.watch(subjects(1, 2))
    looks.start()
    time.sleep(0.1)
    before = len(host.looked)
    looks.watch(subjects(1, 2, 3))
    time.sleep(0.1)
    looks.close()
    assert 3 in host.looked[before : before + 3]
