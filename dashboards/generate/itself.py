"""pinwatch itself: does it see everything, and what does it cost?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.generate.parts import (
    BAD_ABOVE_0,
    DOUBTFUL_ABOVE_0,
    OLD,
    alerts,
    board,
    graph,
    listing,
    number,
)
from dashboards.generate.promql import Query, grown

# Of the counters where anything but 0 means lost events.
_DIFFERS = 'pinwatch_kernel_reconciliation_pages{HOSTS, counter=~"pgmigrate_.+|thp_migration_.+"}'


def build(uid: str) -> Dashboard:
    made = board(
        uid,
        "Does pinwatch run everywhere, does it see everything, are its numbers the kernel's, and "
        "what does it cost?",
        "HOSTS",
    )
    _now(made)
    _right(made)
    _cost(made)
    return made


def _now(made: Dashboard) -> None:
    for panel in (
        number(
            "Hosts not watched", "Hosts where pinwatch does not answer Prometheus.",
            "short", "count(up{HOSTS} == 0) or vector(0)", steps=BAD_ABOVE_0,
        ),
        number(
            "Oldest sample",
            "The longest that any pinwatch has not read the kernel's counters. Two sampling "
            "intervals (4 s) and one scrape interval are normal.",
            "s", "max(time() - pinwatch_sample_timestamp_seconds{HOSTS})", steps=OLD,
        ),
        number(
            "Losses", "What could not be delivered or read in the time range.",
            "short", "round(sum(increase(pinwatch_losses_total{HOSTS}[$__range]))) or vector(0)",
            steps=BAD_ABOVE_0,
        ),
        number(
            "Hooks refused",
            "Places in the kernel that are there and that pinwatch was not let watch.",
            "short", 'count(pinwatch_hook_attached{HOSTS, mode="off", symbol!=""} == 0)'
            " or vector(0)", steps=BAD_ABOVE_0,
        ),
        number(
            "VMs without series",
            "VMs that were counted together since the daemon started, because max_vms others had "
            "series of their own.",
            "short", "round(sum(increase(pinwatch_vms_folded_total{HOSTS}[$__range])))"
            " or vector(0)", steps=DOUBTFUL_ABOVE_0,
        ),
        number(
            "History not writable",
            "Hosts where failures cannot be kept across a restart of pinwatch.",
            "short", "count(pinwatch_history_writable{HOSTS} == 0) or vector(0)",
            steps=DOUBTFUL_ABOVE_0,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        listing(
            "Where it runs, since when",
            "Each host with the versions of pinwatch and the kernel, and how long the daemon has "
            "been up.",
            "s",
            "(time() - process_start_time_seconds{HOSTS})\n"
            "* on (job, instance) group_left (version, kernel) pinwatch_build_info{HOSTS}",
            ("instance", "version", "kernel"),
            "Up for",
            width=14,
        )
    )
    made.with_panel(alerts(10, "HOSTS"))


def _right(made: Dashboard) -> None:
    made.with_row(Row("Does it see everything?"))
    for panel in (
        graph(
            "Losses",
            "What could not be delivered or read, by host and kind (docs/metrics.md): the ten with "
            "the most.",
            "short",
            Query(f"topk(10, {grown('pinwatch_losses_total', 'instance, kind', 'HOSTS')} > 0)",
                  "{{instance}} {{kind}}"),
            none="Nothing was lost",
        ),
        graph(
            "Difference from the kernel's own counters",
            "Our sum minus the kernel's, in pages or folios, for the counters where anything but 0 "
            "means lost events: the ten that differ most. docs/metrics.md says why others differ.",
            "short",
            Query(f"{_DIFFERS}\nand topk(10, abs({_DIFFERS}) > 0)", "{{instance}} {{counter}}"),
            none="No difference",
        ),
        listing(
            "Hooks that are off",
            "Places in the kernel that are not watched, and on how many hosts. Without a kernel "
            "function, that kernel has no such place; `waiting`: its module is not loaded.",
            "short",
            "count by (hook, symbol, mode) (pinwatch_hook_attached{HOSTS} == 0)",
            ("hook", "symbol", "mode"), "Hosts",
        ),
        graph(
            "Searches for VMs, and requests without an answer",
            "How often all processes were looked up because the kernel could not tell of all of "
            "them, requests that got a 503, and connections that ended before an answer: of each, "
            "the ten hosts with the most.",
            "short",
            *(
                Query("topk(10, sum by (instance) (increase("
                      f"{metric}{{HOSTS}}[$__rate_interval])) > 0)", f"{{{{instance}}}} {what}")
                for metric, what in (
                    ("pinwatch_process_rescans_total", "searches"),
                    ("pinwatch_http_requests_refused_total", "refused"),
                    ("pinwatch_http_connections_broken_total", "broken"),
                )
            ),
            none="None of them",
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _cost(made: Dashboard) -> None:
    made.with_row(Row("What does it cost?"))
    for panel in (
        graph(
            "CPU",
            "CPU seconds a second of the daemon: the ten hosts with the most. What the probes cost "
            "the kernel is measured in docs/cost.md.",
            "percentunit",
            Query("topk(10, sum by (instance) "
                  "(rate(process_cpu_seconds_total{HOSTS}[$__rate_interval])))", "{{instance}}"),
            width=8,
        ),
        graph(
            "CPU for looking at VMs' memory",
            "CPU seconds a second that looking at where VMs' memory lies takes; "
            "placement_cpu_percent bounds it. The ten hosts with the most.",
            "percentunit",
            Query("topk(10, sum by (instance) "
                  "(rate(pinwatch_placement_cpu_seconds_total{HOSTS}[$__rate_interval])))",
                  "{{instance}}"),
            width=8,
        ),
        graph(
            "Memory",
            "Resident memory of the daemon: the ten hosts with the most.",
            "bytes",
            Query("topk(10, process_resident_memory_bytes{HOSTS})", "{{instance}}"), width=8,
        ),
        graph(
            "Series",
            "Samples that each scrape brings: the ten hosts with the most.",
            "short", Query("topk(10, scrape_samples_scraped{HOSTS})", "{{instance}}"), width=8,
        ),
        graph(
            "Scrape time",
            "How long Prometheus waits for an answer: the ten slowest hosts.",
            "s", Query("topk(10, scrape_duration_seconds{HOSTS})", "{{instance}}"), width=8,
        ),
        graph(
            "History",
            "Size of the history on disk, and how many failed and slow pins it holds: the ten "
            "hosts with the most.",
            "short",
            Query("topk(10, pinwatch_history_events{HOSTS})", "{{instance}} events"),
            Query("topk(10, pinwatch_history_size_bytes{HOSTS} / 2^20)", "{{instance}} MiB"),
            width=8,
        ),
        graph(
            "Open files",
            "File descriptors of the daemon: the ten hosts with the most.",
            "short", Query("topk(10, process_open_fds{HOSTS})", "{{instance}}"), width=8,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
