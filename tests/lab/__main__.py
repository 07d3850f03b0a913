"""The lab by hand: `python -m tests.lab --list | --fetch | --shell | --run COMMAND...`.

Takes the command line.  Gives a list, a filled cache, a shell in a guest, or a command's output
and its exit status.  Never decides what a test decides: it is for looking around.
"""

import argparse
import sys

from tests.lab import guest, kernels, tools
from tests.lab.errors import LabError
from tests.lab.outcome import Event, read


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return _do(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Boot stock kernels.")
    does = parser.add_mutually_exclusive_group(required=True)
    does.add_argument("--list", action="store_true", help="show the kernels, and which are here")
    does.add_argument(
        "--fetch", nargs="*", metavar="SERIES", help="fetch kernels (all stock ones, with tools)"
    )
    does.add_argument("--shell", action="store_true", help="open a root shell in a guest")
    does.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="run it in a guest"
    )
    shape = parser.add_argument_group("shape of the guest (before --run)")
    shape.add_argument("--kernel", default=kernels.SERIES[0].name, metavar="SERIES")
    shape.add_argument("--memory", default="3G")
    shape.add_argument("--cpus", type=int, default=2)
    shape.add_argument("--max-ram-below-4g", metavar="SIZE")
    shape.add_argument(
        "--append", action="append", default=[], metavar="ARG", help="kernel argument"
    )
    shape.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    return parser


def _do(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list()
    if arguments.fetch is not None:
        return _fetch(arguments.fetch)
    kernel = kernels.fetch(kernels.series(arguments.kernel))
    layout = guest.Layout(
        name="by-hand",
        memory=arguments.memory,
        cpus=arguments.cpus,
        max_ram_below_4g=arguments.max_ram_below_4g,
        kernel_args=tuple(arguments.append) or ("movablecore=2G",),
    )
    if arguments.shell:
        return guest.shell(kernel, layout)
    return _run(kernel, layout, arguments.run, arguments.timeout)


def _list() -> int:
    for series in (*kernels.SERIES, *kernels.BUILT):
        kernel = kernels.cached(series)
        zones = [
            word for word, has in (("movable", series.zone_movable), ("cma", series.cma)) if has
        ]
        missing = "not built" if series.config else "not fetched"
        here = kernel.release if kernel else missing
        note = " (the suite has moved on)" if kernel and kernel.moved else ""
        print(f"{series.name:14}{here}{note}  [{', '.join(zones)}]")
    return 0


def _fetch(names: list[str]) -> int:
    for series in map(kernels.series, names) if names else kernels.SERIES:
        print(f"kernel {series.name}: {kernels.fetch(series).release}", flush=True)
    for name in () if names else tools.PACKAGES:
        print(f"{name}: {tools.tool(name)}", flush=True)
    return 0


def _run(kernel: kernels.Kernel, layout: guest.Layout, command: list[str], timeout_s: float) -> int:
    outcome = guest.boot(kernel, layout, command, timeout_s=timeout_s, on_event=_show)
    print(read(outcome.output), end="")
    print(
        f"[lab] {outcome.status} after {outcome.seconds:.0f} s: {outcome.directory}",
        file=sys.stderr,
    )
    return 3 if outcome.code is None else outcome.code


def _show(event: Event) -> None:
    print(f"[lab] {dict(event)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
