"""`pinwatch check [VM]`: where VMs' memory lies, and whether a pin of it would work now.

Reads /proc and /sys itself; no daemon is needed. Exit code 1 when a verdict is not `fine`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pinwatch import attribute, settings
from pinwatch.commands.config import read_config
from pinwatch.daemon import Roots
from pinwatch.errors import CannotRunError, UsageError
from pinwatch.expose import outlook
from pinwatch.expose.words import Explanation
from pinwatch.forecast import forecast
from pinwatch.host import procfs
from pinwatch.host.attempt import Attempt
from pinwatch.host.survey import Survey
from pinwatch.host.vms import Finder
from pinwatch.model.forecast import Case, Forecast, Verdict
from pinwatch.model.placement import MOVABLE, Cma, Limits, PageClass, Placement
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Vm

PATIENCE_S = 60.0  # a pin that is stuck holds the lock that reading needs
EXACT_PATIENCE_S = 3600.0
_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
BAR_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One VM, or the one that is to come (`vm` None)."""

    vm: Vm | None
    tgid: int
    case: Case
    forecast: Forecast


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "vm",
        nargs="?",
        default="",
        metavar="VM",
        help="name, other name or uuid of a VM, or number of any process",
    )
    parser.add_argument(
        "--vfio", type=_size, default=None, metavar="SIZE",
        help="how much will be pinned, as in 16G (default: all guest memory); without VMs: whether "
        "a new one of that size could be",
    )  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="look at every page, not at a sample")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 512M or 16G")
    size = int(float(match[1]) * (1 << 10 * " KMGT".index(match[2].upper() or " ")))
    if size <= 0:
        raise argparse.ArgumentTypeError("a size is above 0")
    return size


def run(arguments: argparse.Namespace) -> int:
    roots = Roots.default()
    chosen = settings.make({}, read_config(arguments.config))
    programs = attribute.Programs.of(chosen.vmm_programs.split(), chosen.vm_name_pattern)
    survey = Survey(proc=roots.proc, sysfs=roots.sys, by_type=True)
    reports = []
    for task, vm in _select(roots, programs, arguments.vm):
        case = _look(survey, task, vm, arguments)
        if case is not None:
            reports.append(Report(vm=vm, tgid=task.tgid, case=case, forecast=forecast(case)))
    if not reports and arguments.vfio and not arguments.vm:
        case = Case(
            placement=Placement(mappings=(), portions=()),
            free=survey.free,
            limits=Limits(),
            want_bytes=arguments.vfio,
        )
        reports.append(Report(vm=None, tgid=0, case=case, forecast=forecast(case)))
    if not reports and arguments.vm:
        raise UsageError(f"VM {arguments.vm!r} has just ended", hint="check it when it runs again")
    if arguments.json:
        print(json.dumps([outlook.as_json(r.vm, r.tgid, r.case, r.forecast) for r in reports]))
    else:
        show(reports)
    return int(any(report.forecast.verdict is not Verdict.FINE for report in reports))


# ---- which ----------------------------------------------------------------------------------


def _select(roots: Roots, programs: attribute.Programs, wanted: str) -> list[tuple[TaskKey, Vm]]:
    """The VMs that run, or the one that is asked for by name, or by the number of a process."""
    found = list(_running(roots, programs))
    if not wanted:
        return found
    named = [(task, vm) for task, vm in found if wanted in (vm.name, vm.alias, vm.uuid)]
    if named:
        return named
    if re.fullmatch("[0-9]{1,18}", wanted):
        ticks = procfs.start_ticks(roots.proc, int(wanted))
        if ticks is not None:
            task = TaskKey(int(wanted), ticks * procfs.NS_PER_TICK)
            return [(task, dict(found).get(task) or Vm(name=f"pid {wanted}"))]
    names = ", ".join(sorted(vm.name for _, vm in found)) or "none"
    raise UsageError(f"no VM {wanted!r} runs here", hint=f"VMs that run: {names}")


def _running(roots: Roots, programs: attribute.Programs) -> Iterator[tuple[TaskKey, Vm]]:
    finder = Finder(roots.proc, roots.root, programs)
    for task in procfs.vmms(roots.proc, programs):
        evidence = finder.evidence(task, finder.cmdline(task.tgid))
        if vm := attribute.resolve(evidence, programs):
            yield task, vm


def _look(survey: Survey, task: TaskKey, vm: Vm, arguments: argparse.Namespace) -> Case | None:
    attempt = Attempt(
        lambda: survey.look(
            task.tgid,
            want_bytes=arguments.vfio,
            managed=vm.platform.raises_memlock,
            error=None if arguments.exact else 0.01,
        )
    )
    patience_s = EXACT_PATIENCE_S if arguments.exact else PATIENCE_S
    try:
        return attempt.wait(patience_s)
    except TimeoutError:
        raise CannotRunError(
            f"no answer about the memory of VM {vm.name} in {patience_s:.0f} s",
            hint="something holds its lock: see `pinwatch why` for pins that are stuck",
        ) from None


# ---- how it looks ---------------------------------------------------------------------------

_STYLES = {Verdict.FINE: "green", Verdict.AT_RISK: "yellow", Verdict.WILL_FAIL: "red"}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the bar: how it looks, and what it stands for."""

    mark: str
    plain: str  # for terminals that know ASCII only
    style: str
    words: str


STAYS = Part("█", "#", "green", "may stay where it lies")
MOVES = Part("▓", "=", "yellow", "ZONE_MOVABLE")
IN_CMA = Part("▒", "%", "magenta", "CMA")
DOUBTFUL = Part("?", "?", "red", "not known")
ABSENT = Part("·", ".", "dim", "not there yet")
PARTS = (STAYS, MOVES, IN_CMA, DOUBTFUL, ABSENT)


def part_of(page: PageClass) -> Part:
    if page.cma is Cma.YES:
        return IN_CMA
    if page.zone == MOVABLE:
        return MOVES
    return STAYS if page.must_move is False else DOUBTFUL


def bar(place: Placement, *, ascii_only: bool) -> Text:
    """Guest memory as one line; what there is of a part shows, however little."""
    sizes = {part: place.bytes_where(lambda page, p=part: part_of(page) is p) for part in PARTS}  # type: ignore[misc]
    sizes[ABSENT] = max(place.guest_bytes - place.resident_bytes, 0)
    cells = _cells([sizes[part] for part in PARTS])
    text = Text()
    for part, count in zip(PARTS, cells, strict=True):
        text.append((part.plain if ascii_only else part.mark) * count, style=part.style)
    return text


def _cells(sizes: list[int]) -> list[int]:
    """Cells of the bar for each size: at least one for each that is not 0."""
    whole = sum(sizes) or 1
    cells = [max(round(size * BAR_WIDTH / whole), 1) if size else 0 for size in sizes]
    cells[cells.index(max(cells))] += BAR_WIDTH - sum(cells) if any(cells) else 0
    return cells


def show(reports: list[Report]) -> None:
    """A bar and the words for each VM, the worst last, where the eye is."""
    console = Console(highlight=False, emoji=False, markup=False)
    if not reports:
        console.print("no VM runs on this host; --vfio SIZE says whether a new one could be pinned")
        return
    ascii_only = console.options.ascii_only
    ordered = sorted(reports, key=lambda report: report.forecast.verdict.rank)
    for report in ordered:
        told = outlook.explain(report.vm, report.case, report.forecast)
        drawn = bar(report.case.placement, ascii_only=ascii_only)
        _show_one(console, told, drawn, _STYLES[report.forecast.verdict])
    marks = (f"{part.plain if ascii_only else part.mark} {part.words}" for part in PARTS)
    if any(report.vm for report in reports):
        console.print(Text("  ".join(marks), style="dim"))


def _show_one(console: Console, told: Explanation, drawn: Text, style: str) -> None:
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if drawn.plain.strip():
        table.add_row("", drawn)
    for label, paragraph in told.paragraphs:
        table.add_row(Text(label), Text(paragraph))
    with console.capture() as capture:
        console.print(Text(told.headline, style=f"bold {style}"))
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())  # rich fills each row with spaces
    print()
