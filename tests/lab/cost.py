"""`make cost`: instructions a page of a VFIO map with and without pinwatch, on every kernel."""

from __future__ import annotations

import sys

from tests.lab import guest, kernels
from tests.lab.guest import Layout
from tests.lab.outcome import Event, Status

# One CPU, and a clock that counts instructions.
LAYOUT = Layout(
    name="cost",
    memory="2G",
    cpus=1,
    kernel_args=("movablecore=1G",),
    qemu_args=("-icount", "shift=0"),
)


def show(event: Event) -> None:
    if event.get("event") == "cost":
        print(
            f"  {event['name']:<16} {event['migrating']:8.0f} migrating (spread "
            f"{event['migrating_spread']:.0f}), {event['staying']:6.0f} not (spread "
            f"{event['staying_spread']:.0f}), {event['mmap']:.0f} mmap and munmap, "
            f"{event['madvise']:.0f} madvise, {event['thread']:.0f} a thread",
            flush=True,
        )
    elif event.get("event") == "memory":
        print(f"  memory {event}", flush=True)


def main(arguments: list[str]) -> int:
    flags = [argument for argument in arguments if argument.startswith("-")]
    names = [argument for argument in arguments if not argument.startswith("-")]
    failed = 0
    for series in map(kernels.series, names) if names else kernels.SERIES:
        print(f"Linux {series.name}: instructions a page of a 32 MiB VFIO map (median)", flush=True)
        outcome = guest.boot(
            kernels.fetch(series),
            LAYOUT,
            [sys.executable, "-m", "tests.lab.inside.cost", *flags],
            timeout_s=2400,
            on_event=show,
        )
        if outcome.status is not Status.FINISHED or outcome.code:
            print(f"cost: {outcome}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
