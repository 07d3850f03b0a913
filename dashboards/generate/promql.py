"""Queries: selectors that follow the dashboard's variables, and counts that miss no first one.

In a query, `metric{HOST}` stands for a metric of the chosen hosts, `metric{VM}` of the chosen VMs.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = 'job=~"$job", instance=~"$instance"'
VM = f'{HOST}, vm=~"$vm"'

# dashboards/prometheus_rules.yaml: how many within each minute, the first one included.
FAILURES = "vm_source_reason_holder:pinwatch_longterm_pin_failures:increase1m"
SLOW = "vm_source_cause:pinwatch_longterm_slow_pins:increase1m"

# Alerts that fire now.
FIRING = 'ALERTS{HOST, alertstate="firing", alertname=~"Pinwatch.+"}'


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and how a legend names what it gives."""

    expr: str
    legend: str = "__auto"


def promql(expr: str) -> str:
    """With the variables in it."""
    return expr.replace("{HOST", "{" + HOST).replace("{VM", "{" + VM)


def total(recorded: str, by: str, where: str = "HOST") -> str:
    """How many in all of the time range; nothing where there was none."""
    return f"sum by ({by}) (sum_over_time({recorded}{{{where}}}[$__range]))"


def count(recorded: str, where: str = "HOST") -> str:
    """The same as one number, 0 included."""
    return f"sum(sum_over_time({recorded}{{{where}}}[$__range])) or vector(0)"


def over_time(recorded: str, by: str, where: str = "HOST") -> str:
    """How many in each step of a graph. The rule runs each minute, so no step may be shorter."""
    return f"sum by ({by}) (sum_over_time({recorded}{{{where}}}[$__interval]))"


def grown(metric: str, by: str, where: str = "VM") -> str:
    """What a counter grew by that comes as a new series, with more than 0 in it: increase() does
    not see where that comes from, and says 0. New is a series that is there less often than
    pinwatch answered; so nothing is new to a Prometheus that has just begun or come back."""
    selected, lately = f"{metric}{{{where}}}", "[$__rate_interval]"
    return (
        f"sum by ({by}) (\n"
        f"  (\n"
        f"    {selected} and count_over_time({selected}{lately})\n"
        f"    < on (job, instance) group_left ()\n"
        f"    max by (job, instance) (sum_over_time(up{{{HOST}}}{lately}))\n"
        f"  )\n"
        f"  or increase({selected}{lately})\n"
        f")"
    )
