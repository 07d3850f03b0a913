"""docs/fleet-measured.md from what tests/monitoring/scale.py has measured."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

Found = dict[str, Any]

MILLION = 1_000_000
GIB = 1 << 30
MANY_HOSTS = 10_000
REASONS = "pinwatch_vfio_map_failures_total"
CHUNK_SAMPLES = 120
SHOWN = 8  # metrics, rules and queries that cost most
# What Grafana Labs says in "Planning Grafana Mimir capacity".
MIMIR = {
    "replicas": 3,
    "ingester_series": 300_000,
    "ingester_gb": 2.5,
    "ingester_disk_gb": 5.0,
    "distributor_samples": 25_000,
}

HEAD = """\
# What a fleet costs a Prometheus

Written by `make fleet`. The hosts are simulated: each is a pipeline with the daemon's own
exposition, which serves OpenMetrics, gzipped, to a real Prometheus that has all shipped rules and
alerts. Each VM has a device and has been looked at. On each fifth host eight pins fail and one is
slow, replayed from the lab, one of them in the first map of a VM that has just come; VMs come and
go on each fifth, and each hundredth dies. A second Prometheus federates from the first as
[fleet.md](fleet.md) says.

"""


def document(found: Found) -> str:
    """The whole file."""
    parts = (_machine, _right, _series, _costs, _rules, _queries, _paper)
    return HEAD + "\n".join(line for part in parts for line in part(found)) + "\n"


def _machine(found: Found) -> Iterator[str]:
    dropped = f" Metrics that match `{found['drop']}` were dropped." if found["drop"] else ""
    yield (
        f"{found['hosts']} hosts with {found['vms']} VMs each for {found['minutes']:g} minutes, "
        f"scraped every {found['interval_s']:g} s by Prometheus {found['version']}, on "
        f"{found['cpus']} CPUs (load {found['load']:.1f} in all; the simulated hosts among "
        f"it took {found['hosts_cores']:.2f} of a CPU for "
        f"{found['scrapes_s']:.1f} scrapes a second).{dropped}"
    )
    yield ""


def _right(found: Found) -> Iterator[str]:
    right = found["right"]
    yield "| | here | where it is federated to |"
    yield "|---|---|---|"
    near, far = right["near"], right["far"]
    put_in = f"{right['put_in']} failed pins on {right['hosts']} hosts: shown by the dashboard"
    yield f"| {put_in} | {near['shown']} | {far['shown']} |"
    wrong = "of these at a wrong host, VM or reason, or not at all"
    yield f"| {wrong} | {_wrong(near)} | {_wrong(far)} |"
    yield (
        "| hosts where an alert of a failed pin fired and should not, or did not and should | "
        f"{len(near['fired_wrongly'])} | {len(far['fired_wrongly'])} |"
    )
    yield (
        f"| the same of `PinwatchDown` | {len(near['down_wrongly'])} | {len(far['down_wrongly'])} |"
    )
    yield (
        "| queries of the fleet dashboard without an answer | "
        f"{len(near['unanswered'])} | {len(far['unanswered'])} |"
    )
    yield ""


def _wrong(one: Found) -> int:
    return int(one["missing"] + one["too_many"])


# ---- series -------------------------------------------------------------------------------------


def per_host(found: Found) -> int:
    return int(found["series"]["idle"])


def per_vm(found: Found) -> float:
    return float(sum(found["series"]["vm"].values()))


def _series(found: Found) -> Iterator[str]:
    own, of_vm = found["series"]["host"], found["series"]["vm"]
    yield "## Series"
    yield ""
    yield (
        f"A host has {sum(own.values())} series of its own and {per_vm(found):g} for each VM: with "
        f"{found['vms']} VMs {per_host(found)}, and {found['series']['failing']} after its eight "
        f"failures. The rules record {found['series']['recorded'] / found['hosts']:.1f} more for "
        "each host."
    )
    yield ""
    yield "| for each VM | series | | for each host | series |"
    yield "|---|---|---|---|---|"
    vm, host = _largest(of_vm), _largest(own)
    for (vm_name, of_vm_count), (name, count) in zip(vm, host, strict=True):
        yield f"| {vm_name} | {of_vm_count:g} | | {name} | {count:g} |"
    yield ""


def _largest(counts: dict[str, float]) -> list[tuple[str, float]]:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ordered[SHOWN:])
    return [*((f"`{name}`", count) for name, count in ordered[:SHOWN]), ("all others", rest)]


# ---- costs --------------------------------------------------------------------------------------


def _costs(found: Found) -> Iterator[str]:
    disk, millions = found["on_disk"], found["head_series"] / MILLION
    scraping = found["scraping"]
    index = disk["index_per_series"]
    two_hours = 7200 / found["interval_s"]
    cores, rss, a_sample = found["cores"], found["rss"], disk["chunks_per_sample"]
    rows = {
        "series in its head": f"{millions:.2f} million",
        "samples": f"{_count(found['samples_s'])} a second",
        "CPU, rules included": (
            f"{cores:.2f} of a core, {cores / millions:.2f} for each million series"
        ),
        "memory, resident": (
            f"{rss / GIB:.1f} GiB, {rss / found['head_series']:.0f} bytes a series; most "
            f"{found['rss_most'] / GIB:.1f} GiB, {disk['rss_after'] / GIB:.1f} GiB after its head "
            "was written to a block"
        ),
        "a scrape, with the host's part": f"median {scraping['0.5'] * 1000:.0f} ms",
        "a scrape of /federate": (
            f"{scraping['federate'] * 1000:.0f} ms; the server there has "
            f"{_count(found['series']['far'])} series"
        ),
        "write-ahead log": f"{disk['wal_per_sample']:.1f} bytes a sample",
        "block": (
            f"{a_sample:.2f} bytes a sample and {index:.0f} a series; of two hours "
            f"{a_sample + index / two_hours:.2f} bytes a sample"
        ),
        "until it is ready again after a restart": f"{found['restart_s']:.0f} s",
    }
    yield "## What it takes"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"
    yield ""


def _rules(found: Found) -> Iterator[str]:
    yield "## Rules"
    yield ""
    yield f"Every group in time: {found['missed']:.0f} evaluations were missed."
    yield ""
    yield "| group | every | median | worst | | slowest rules | median |"
    yield "|---|---|---|---|---|---|---|"
    groups = list(found["groups"].items())
    every = {"pinwatch_hints": "5 min"}
    slowest = sorted(found["rules"].items(), key=lambda item: -item[1])[:SHOWN]
    for number, (name, seconds) in enumerate(slowest):
        group = ["", "", "", ""]
        if number < len(groups):
            of, (median, worst) = groups[number]
            group = [f"`{of}`", every.get(of, "1 min"), _s(median), _s(worst)]
        yield "| " + " | ".join(group) + f" | | `{name}` | {_s(seconds)} |"
    yield ""


def _queries(found: Found) -> Iterator[str]:
    yield "## Dashboards"
    yield ""
    yield (
        "All panels, variables and annotations of a dashboard, each asked five times; *opening* is "
        "the sum of medians, as if one were asked after the other. For the host's and the VM's "
        f"dashboard one is chosen. Of the hour, the run filled {found['minutes']:g} minutes. The "
        "day before was written from recorded series, and asked after a restart."
    )
    yield ""
    yield (
        "| dashboard | queries | opening | first time | slowest, median | worst of all | "
        "slowest is |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, timed in found["queries"].items():
        slowest = max(timed, key=lambda one: float(one["median_s"]))
        yield (
            f"| {name} | {len(timed)} | {_s(sum(one['median_s'] for one in timed))} | "
            f"{_s(sum(one['first_s'] for one in timed))} | {_s(slowest['median_s'])} | "
            f"{_s(max(one['worst_s'] for one in timed))} | "
            f"{slowest['where'].split(' / ')[1]} |"
        )
    yield ""
    yield (
        "| query of the fleet dashboard | 1 h: first | median | worst | 24 h: first | median | "
        "worst |"
    )
    yield "|---|---|---|---|---|---|---|"
    for hour, day in zip(
        found["queries"]["fleet, 1 h"], found["queries"]["fleet, 24 h"], strict=True
    ):
        of = (one[f"{kind}_s"] for one in (hour, day) for kind in ("first", "median", "worst"))
        where = hour["where"].removeprefix("pinwatch-fleet / ").removesuffix(" / A")
        yield f"| {where} | " + " | ".join(map(_s, of)) + " |"
    yield ""


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


# ---- on paper -----------------------------------------------------------------------------------


def _paper(found: Found) -> Iterator[str]:
    """10 000 hosts, by proportion."""
    hosts, interval_s = found["hosts"], found["interval_s"]
    series = per_host(found) * MANY_HOSTS
    samples_s = series / interval_s
    of_one = found["rss"] / found["head_series"] + _chunk_bytes(found)
    shards = ceil(MANY_HOSTS / hosts)
    recorded = found["series"]["recorded"] / hosts
    global_series = found["series"]["far"] / hosts * MANY_HOSTS
    yield f"## On paper: {_count(MANY_HOSTS)} hosts"
    yield ""
    yield (
        "Each line is a product of numbers above; nothing of it was run. The run was shorter than "
        f"the {CHUNK_SAMPLES} samples of a chunk, of which Prometheus keeps one for each series in "
        f"memory: that is {_chunk_bytes(found):.0f} bytes a series more than measured."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield (
        f"| series | {_count(MANY_HOSTS)} x {_count(per_host(found))} = "
        f"{series / MILLION:.1f} million |"
    )
    yield (
        f"| samples | {series / MILLION:.1f} million / {interval_s:g} s = {_count(samples_s)} a "
        "second |"
    )
    yield (
        f"| memory of Prometheus | {series / MILLION:.1f} million x {of_one:.0f} bytes = "
        f"{series * of_one / GIB:.0f} GiB |"
    )
    yield from _without(found, of_one)
    yield (
        f"| shards of {hosts} hosts, as measured | {_count(MANY_HOSTS)} / {hosts} = {shards}; each "
        f"{per_host(found) * hosts * of_one / GIB:.1f} GiB, and twice that for comfort, and "
        f"{found['cores']:.2f} of a core |"
    )
    a_sample = _block_bytes(found)
    yield (
        f"| disk for 15 days | {_count(samples_s)} x 86 400 x 15 x {a_sample:.2f} bytes = "
        f"{samples_s * 86_400 * 15 * a_sample / 1e12:.1f} TB |"
    )
    yield (
        f"| one Prometheus that federates from all of them | {_count(MANY_HOSTS)} x "
        f"{found['series']['far'] / hosts:.1f} = {_count(global_series)} series, "
        f"{global_series * of_one / GIB:.1f} GiB; {recorded:.1f} of a host's are recorded |"
    )
    yield from _mimir(series, samples_s)
    yield ""
    yield (
        "Mimir's are the figures of *Planning Grafana Mimir capacity* in its documentation, which "
        "asks for half as much memory and disk again."
    )


def _without(found: Found, of_one: float) -> Iterator[str]:
    """What fleet.md advises to drop."""
    reasons = found["series"]["vm"].get(REASONS)
    if reasons:
        left = per_host(found) - reasons * found["vms"]
        series = left * MANY_HOSTS
        yield (
            f"| the same without `{REASONS}` | {_count(per_host(found))} - {reasons:g} x "
            f"{found['vms']} = {_count(left)} series a host, {series / MILLION:.1f} million, "
            f"{_count(series / found['interval_s'])} samples a second, "
            f"{series * of_one / GIB:.0f} GiB |"
        )


def _chunk_bytes(found: Found) -> float:
    """What is still missing of a series' first chunk in memory."""
    disk = found["on_disk"]
    return float(max(0, CHUNK_SAMPLES - disk["samples_a_series"]) * disk["chunks_per_sample"])


def _block_bytes(found: Found) -> float:
    disk = found["on_disk"]
    return float(disk["chunks_per_sample"] + disk["index_per_series"] * found["interval_s"] / 7200)


def _mimir(series: float, samples_s: float) -> Iterator[str]:
    held = series * MIMIR["replicas"]
    parts = held / MIMIR["ingester_series"]
    yield (
        f"| Mimir, ingesters | {series / MILLION:.1f} million x {MIMIR['replicas']} replicas / "
        f"{_count(MIMIR['ingester_series'])} = {parts:.0f} cores, x {MIMIR['ingester_gb']} GB = "
        f"{_count(parts * MIMIR['ingester_gb'])} GB of memory, x "
        f"{MIMIR['ingester_disk_gb']:g} GB = {_count(parts * MIMIR['ingester_disk_gb'])} GB of "
        "disk |"
    )
    distributors = samples_s / MIMIR["distributor_samples"]
    yield (
        f"| Mimir, distributors | {_count(samples_s)} / {_count(MIMIR['distributor_samples'])} = "
        f"{distributors:.0f} cores and GB |"
    )


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")
