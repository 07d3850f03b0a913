"""`make fleet`: what a fleet costs a real Prometheus, and docs/fleet-measured.md.

`python -m tests.monitoring.scale --hosts 500 --vms 50 --minutes 15`; `--write` writes the page,
else it is printed. The hosts are simulated (simulated.py); all else is real.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.monitoring import scaled
from tests.monitoring.backfill import backfill
from tests.monitoring.measured import document
from tests.monitoring.scaled import Timed, Watched
from tests.monitoring.serving import serving
from tests.monitoring.simulated import Shape

DOCS = Path(__file__).resolve().parents[2] / "docs/fleet-measured.md"
POLL_S = 15
DAY_S, DAY_STEP_S = 86_400, 120
IDLE, FAILING = "compute-0000", "compute-0008"
DOWN = "PinwatchDown"


@dataclass(frozen=True, slots=True)
class Trace:
    """What was read of a Prometheus while it ran."""

    times: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    rules: list[dict[str, float]] = field(default_factory=list)
    served: list[dict[str, Any]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def read(self, watched: Watched) -> None:
        self.times.append(time.time())
        self.metrics.append(scaled.own_metrics(watched.near))
        self.rules.append(scaled.rule_times(watched.near))
        self.served.append(watched.served.said())
        self.loads.append(os.getloadavg()[0])

    def rate(self, name: str) -> float:
        """By the second, over the last half."""
        half = len(self.times) // 2
        grown = self.metrics[-1][name] - self.metrics[half][name]
        return grown / (self.times[-1] - self.times[half])

    def served_rate(self, name: str) -> float:
        half = len(self.times) // 2
        grown = float(self.served[-1][name] - self.served[half][name])
        return grown / (self.times[-1] - self.times[half])

    def groups(self) -> dict[str, tuple[float, float]]:
        """Seconds of an evaluation by group of rules: median and worst of the last half."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for metrics in self.metrics[len(self.metrics) // 2 :]:
            for name, value in metrics.items():
                if name.startswith("prometheus_rule_group_last_duration_seconds|"):
                    found[name.rpartition(";")[2]].append(value)
        return {group: (statistics.median(of), max(of)) for group, of in found.items()}

    def missed(self) -> float:
        return sum(
            value
            for name, value in self.metrics[-1].items()
            if name.startswith("prometheus_rule_group_iterations_missed_total|")
        )

    def slowest_rules(self) -> dict[str, float]:
        """Median seconds of each rule, in the last half."""
        later = self.rules[len(self.rules) // 2 :]
        return {name: statistics.median(of[name] for of in later) for name in later[-1]}


def follow(watched: Watched, minutes: float) -> Trace:
    trace = Trace()
    until = watched.served.began_s + minutes * 60 / watched.speed
    while True:
        trace.read(watched)
        if (left := until - time.time()) <= 0:
            return trace
        time.sleep(min(left, POLL_S))


def right(watched: Watched) -> dict[str, Any]:
    """Does it count and fire as it should, there and where that is federated to?"""
    said = watched.served.said()
    put_in = scaled.failures_put_in(said)
    found: dict[str, Any] = {"put_in": sum(put_in.values()), "hosts": len({of[0] for of in put_in})}
    for name, url in (("near", watched.near), ("far", watched.far)):
        asking = watched.asking(url)
        shown = scaled.failures_shown(asking)
        found[name] = {
            "shown": sum(shown.values()),
            "missing": sum((put_in - shown).values()),
            "too_many": sum((shown - put_in).values()),
            "fired_wrongly": sorted(scaled.fired(asking) ^ {of[0] for of in put_in}),
            "down_wrongly": sorted(scaled.fired(asking, DOWN) ^ set(said["dead"])),
            "unanswered": [q.where for q in scaled.of_board("pinwatch-fleet") if not asking.ask(q)],
        }
    return found


def series(watched: Watched) -> dict[str, Any]:
    """Of one host without failures and one with them."""
    asking = watched.asking(watched.near)
    of_vms, own = scaled.series_of(asking, IDLE)
    failing = scaled.series_of(asking, FAILING)
    vms = watched.served.shape.vms
    return {
        "vm": {name: count / vms for name, count in of_vms.items()},
        "host": own,
        "idle": sum(of_vms.values()) + sum(own.values()),
        "failing": sum(sum(part.values()) for part in failing),
        "recorded": asking.value('count({__name__=~".+:pinwatch_.+"})'),
        "far": scaled.own_metrics(watched.far)["prometheus_tsdb_head_series"],
    }


def queries(watched: Watched) -> dict[str, list[dict[str, Any]]]:
    """Each query of each dashboard over an hour: the fleet's for all, others for one."""
    asking, far = watched.asking(watched.near), watched.asking(watched.far)
    vm = scaled.failures_put_in(watched.served.said()).most_common(1)[0][0][1]
    of = scaled.of_board
    return {
        "fleet, 1 h": _timed(scaled.timed(asking, q) for q in of("pinwatch-fleet")),
        "fleet, 1 h, federated": _timed(scaled.timed(far, q) for q in of("pinwatch-fleet")),
        "host, 1 h": _timed(
            scaled.timed(asking, q, instance=FAILING) for q in of("pinwatch-host")
        ),
        "vm, 1 h": _timed(
            scaled.timed(asking, q, instance=FAILING, vm=vm) for q in of("pinwatch-vm")
        ),
        "itself, 1 h": _timed(scaled.timed(asking, q) for q in of("pinwatch-itself")),
    }  # fmt: skip


def _timed(each: Iterator[Timed]) -> list[dict[str, Any]]:
    return [
        {"where": t.where, "first_s": t.first_s, "median_s": t.median_s, "worst_s": t.worst_s}
        for t in each
    ]


def scraping(watched: Watched) -> dict[str, Any]:
    asking = watched.asking(watched.near)
    return {
        f"{part}": asking.value(f"quantile({part}, scrape_duration_seconds)")
        for part in (0.5, 0.99)
    } | {"federate": watched.asking(watched.far).value("max(scrape_duration_seconds)")}


def on_disk(watched: Watched) -> dict[str, float]:
    """Of the log and of a block with all that was scraped."""
    appended = scaled.own_metrics(watched.near)["prometheus_tsdb_head_samples_appended_total|float"]
    wal = scaled.size_of(watched.home / "near/data/wal")
    before = scaled.own_metrics(watched.near)
    (block,) = (path for path in scaled.snapshot(watched).iterdir() if path.is_dir())
    after = scaled.own_metrics(watched.near)
    stats = json.loads((block / "meta.json").read_text())["stats"]
    return {
        "wal_per_sample": wal / appended,
        "chunks_per_sample": scaled.size_of(block / "chunks") / stats["numSamples"],
        "index_per_series": (block / "index").stat().st_size / stats["numSeries"],
        "samples_a_series": stats["numSamples"] / stats["numSeries"],
        "rss_before": before["process_resident_memory_bytes"],
        "rss_after": after["process_resident_memory_bytes"],
    }


def run(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """All of it, as plain values."""
    shape = Shape(arguments.hosts, arguments.vms, arguments.speed)
    found: dict[str, Any] = {
        "hosts": shape.hosts, "vms": shape.vms, "minutes": arguments.minutes,
        "speed": shape.speed, "interval_s": arguments.interval, "drop": arguments.drop,
        "version": scaled.version(), "cpus": os.cpu_count(),
    }  # fmt: skip
    with serving(shape) as served:
        with scaled.watched(served, home, arguments.interval, arguments.drop) as watched:
            trace = follow(watched, arguments.minutes)
            found |= _of(trace)
            for part in (right, series, scraping, queries, on_disk):
                found[part.__name__] = part(watched)
                _say(part.__name__, found[part.__name__])
            backfill(watched, DAY_S / shape.speed)
        shutil.rmtree(home / "near/data/snapshots")
        began = time.monotonic()
        with scaled.watched(served, home, arguments.interval, arguments.drop) as watched:
            found["restart_s"] = time.monotonic() - began
            asking = watched.asking(watched.near, range_s=DAY_S, step_s=DAY_STEP_S)
            found["queries"]["fleet, 24 h"] = _timed(
                scaled.timed(asking, query) for query in scaled.of_board("pinwatch-fleet")
            )
            _say("24 h", found["queries"]["fleet, 24 h"])
    return found


def _of(trace: Trace) -> dict[str, Any]:
    last = trace.metrics[-1]
    rss = [metrics["process_resident_memory_bytes"] for metrics in trace.metrics]
    found = {
        "head_series": last["prometheus_tsdb_head_series"],
        "samples_s": trace.rate("prometheus_tsdb_head_samples_appended_total|float"),
        "cores": trace.rate("process_cpu_seconds_total"),
        "rss": rss[-1], "rss_most": max(rss), "heap": last["go_memstats_heap_inuse_bytes"],
        "groups": trace.groups(), "rules": trace.slowest_rules(), "missed": trace.missed(),
        "hosts_cores": trace.served_rate("cpu_s"), "scrapes_s": trace.served_rate("scrapes"),
        "load": statistics.median(trace.loads),
    }  # fmt: skip
    _say("trace", found)
    return found


def _say(what: str, found: Any) -> None:
    print(what, json.dumps(found), file=sys.stderr, flush=True)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.scale")
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--vms", type=int, default=50, help="of each host")
    parser.add_argument("--minutes", type=float, default=15, help="of the fleet, 9 or more")
    parser.add_argument("--speed", type=float, default=1, help="of its clock")
    parser.add_argument("--interval", type=float, default=30, help="seconds between scrapes")
    parser.add_argument("--drop", default="", help="metrics that are not stored: a pattern")
    parser.add_argument("--from", dest="found", type=Path, help="values of an earlier run")
    parser.add_argument("--keep", type=Path, help="where to put the values of this one")
    parser.add_argument("--write", action="store_true", help=f"write docs/{DOCS.name}")
    return parser


def main(words: list[str]) -> int:
    arguments = options().parse_args(words)
    if arguments.found:
        found = json.loads(arguments.found.read_text())
    else:
        with tempfile.TemporaryDirectory() as home:
            found = run(arguments, Path(home))
    if arguments.keep:
        arguments.keep.write_text(json.dumps(found))
    text = document(found)
    if wrong := _wrong(found["right"]):
        print(f"{text}\nnot written: {wrong} are wrong", file=sys.stderr)
        return 1
    if arguments.write:
        DOCS.write_text(text)
    else:
        print(text)
    return 0


def _wrong(found: dict[str, Any]) -> list[str]:
    """What is not as it should be, there or where that is federated to."""
    bad = ("missing", "too_many", "fired_wrongly", "down_wrongly", "unanswered")
    return [f"{name}: {key}" for name in ("near", "far") for key in bad if found[name][key]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
