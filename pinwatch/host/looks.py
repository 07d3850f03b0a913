"""Look at the memory of one VM after the other, in the background, for as much CPU as may be spent.

Takes the processes that run VMs, gives items for the pipeline. Whoever was looked at longest ago is
next; after each look there is a rest that is as long as the look was dear. The fewer VMs, the
oftener and the more exact.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from pinwatch import sampling
from pinwatch.errors import CannotRunError
from pinwatch.host import clock
from pinwatch.host.attempt import Attempt
from pinwatch.host.frames import FrameRange
from pinwatch.host.survey import Survey
from pinwatch.model.forecast import Case
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.sample import TaskKey
from pinwatch.recording import Item, Looked, Surveyed

SURVEY_S = 10.0  # between readings of what is free
AGAIN_S = 10.0  # between looks at one VM, however cheap
ROUND_S = 600.0  # in which all should be looked at; what that leaves for each decides how exactly
PATIENCE_S = 20.0
BEST, WORST = 0.01, 0.05
NEVER = float("-inf")
FIRST_GUESS_S = 10e-6  # of CPU time for each page that is looked at


@dataclass(frozen=True, slots=True)
class Subject:
    """A process that runs a VM. `managed`: something raises its RLIMIT_MEMLOCK when it must."""

    task: TaskKey
    managed: bool


class Looks:
    """A thread that looks. `percent` of one core is what it may take; 0: it never starts."""

    def __init__(
        self,
        *,
        proc: Path,
        sysfs: Path,
        percent: float,
        cma: Sequence[FrameRange] | None = None,
    ) -> None:
        self._proc, self._sysfs, self._cma = proc, sysfs, cma
        self._share = percent / 100
        self._subjects: tuple[Subject, ...] = ()
        self._found: SimpleQueue[Item] = SimpleQueue()
        self._last: dict[TaskKey, float] = {}  # when it was looked at
        self._left: dict[TaskKey, Attempt[tuple[Case | None, float]]] = {}  # that did not come back
        self._page_s = FIRST_GUESS_S
        self._cpu_s = 0.0
        self._reason = "" if percent else "placement_cpu_percent is 0"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.given_up = 0  # looks that did not come back in time

    # ---- from outside -----------------------------------------------------------------------

    def start(self) -> None:
        if self._share:
            self._thread.start()

    def watch(self, subjects: Sequence[Subject]) -> None:
        """Look at these from now on."""
        self._subjects = tuple(subjects)

    def take(self) -> Iterator[Item]:
        """What was found since the last call."""
        while not self._found.empty():
            yield self._found.get()

    @property
    def states(self) -> tuple[HookState, ...]:
        mode = Mode.OFF if self._reason else Mode.PROCFS
        sees = "where VMs' memory lies, and whether they could pin it"
        return (
            HookState(
                hook="placement",
                symbol="/proc/PID/pagemap",
                mode=mode,
                reason=self._reason,
                sees=sees,
            ),
        )

    def close(self) -> None:
        self._stop.set()

    # ---- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        survey: Survey | None = None
        next_survey = 0.0
        while not self._stop.is_set():
            began = self._cpu_s
            try:
                if survey is None or clock.monotonic_s() >= next_survey:
                    survey = self._survey(survey)
                    next_survey = clock.monotonic_s() + SURVEY_S
                if subject := self._next():
                    self._look(survey, subject)
                    self._reason = ""
                elif not self._subjects:
                    self._reason = ""
            except (CannotRunError, OSError) as error:  # of one VM; the others are looked at still
                self._reason = str(error)
            spent = self._cpu_s - began
            idle = max(next_survey - clock.monotonic_s(), 0.1) if not spent else 0.0
            self._stop.wait(max(spent / self._share - spent, min(idle, 1.0)))

    def _survey(self, survey: Survey | None) -> Survey:
        began = clock.thread_cpu_s()
        if survey is None:
            survey = Survey(proc=self._proc, sysfs=self._sysfs, cma=self._cma)
        else:
            survey.refresh()
        self._cpu_s += clock.thread_cpu_s() - began
        self._found.put(Surveyed(survey.free, self._cpu_s))
        return survey

    def _next(self) -> Subject | None:
        """Who was looked at longest ago, or never."""
        alive = {subject.task for subject in self._subjects}
        for kept in (self._last, self._left):
            for task in kept.keys() - alive:
                del kept[task]
        due = clock.monotonic_s() - AGAIN_S
        waiting = [
            subject
            for subject in self._subjects
            if self._last.get(subject.task, NEVER) <= due and self._has_come_back(subject.task)
        ]
        return min(waiting, key=lambda one: self._last.get(one.task, NEVER), default=None)

    def _has_come_back(self, task: TaskKey) -> bool:
        if task in self._left and self._left[task].is_over:
            del self._left[task]
        return task not in self._left

    def _look(self, survey: Survey, subject: Subject) -> None:
        task = subject.task
        attempt = Attempt(lambda: self._timed_look(survey, subject))
        self._last[task] = clock.monotonic_s()
        try:
            case, cpu_s = attempt.wait(PATIENCE_S)
        except TimeoutError:
            self.given_up += 1
            self._left[task] = attempt
            return
        self._cpu_s += cpu_s
        if case is not None:
            self._learn(case, cpu_s)
            self._found.put(
                Looked(
                    task=task,
                    time_ns=clock.monotonic_ns(),
                    placement=case.placement,
                    limits=case.limits,
                    rules=case.rules,
                )
            )

    def _timed_look(self, survey: Survey, subject: Subject) -> tuple[Case | None, float]:
        began = clock.thread_cpu_s()
        case = survey.look(subject.task.tgid, managed=subject.managed, error=self._error())
        return case, clock.thread_cpu_s() - began

    def _error(self) -> float:
        """What the time can buy that each VM has in a round."""
        each_s = self._share * ROUND_S / max(len(self._subjects), 1)
        return min(max(sampling.error_for(each_s / self._page_s), BEST), WORST)

    def _learn(self, case: Case, cpu_s: float) -> None:
        """How dear a page is, small guests aside: of those the time goes elsewhere."""
        if case.placement.samples > sampling.wanted_hits(WORST) // 2:
            self._page_s += (cpu_s / case.placement.samples - self._page_s) / 4
