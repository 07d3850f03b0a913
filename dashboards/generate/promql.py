"""Queries: selectors that follow the dashboard's variables, and counts that miss no first one.

In a query, `metric{HOSTS}` stands for a metric of the chosen hosts, `metric{HOST}` of the one host
that a dashboard is about, `metric{VM}` of the one VM, on the chosen hosts.
"""

from __future__ import annotations

from dataclasses import dataclass

# Grafana escapes what is chosen for a regular expression only where a variable may have several
# values; of one it gives the value as it is, which may be "win10 (copy)" or "[2001:db8::1]:19816".
HOSTS = 'job=~"$job", instance=~"$instance"'
SELECTORS = {  # the longer name first
    "HOSTS": HOSTS,
    "HOST": 'job=~"$job", instance="$instance"',
    "VM": f'{HOSTS}, vm="$vm"',
}

# dashboards/prometheus_rules.yaml: how many within each minute, the first one included.
FAILURES = "vm_source_reason_holder:pinwatch_longterm_pin_failures:increase1m"
SLOW = "vm_source_cause:pinwatch_longterm_slow_pins:increase1m"

_FIRING = 'alertstate="firing", alertname=~"Pinwatch.+"'


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and how a legend names what it gives."""

    expr: str
    legend: str = "__auto"


def promql(expr: str) -> str:
    """With the variables in it."""
    for name, selector in SELECTORS.items():
        expr = expr.replace("{" + name, "{" + selector)
    return expr


def firing(where: str) -> str:
    """Alerts that fire now, also that of no host: PinwatchDown where no pinwatch is left at all."""
    return f'ALERTS{{{where}, {_FIRING}}}\nor ALERTS{{job=~"$job", instance="", {_FIRING}}}'


def total(recorded: str, by: str, where: str) -> str:
    """How many in all of the time range; nothing where there was none."""
    return f"sum by ({by}) (sum_over_time({recorded}{{{where}}}[$__range]))"


def count(recorded: str, where: str) -> str:
    """The same as one number, 0 included."""
    return f"sum(sum_over_time({recorded}{{{where}}}[$__range])) or vector(0)"


def or_0(by_host: str) -> str:
    """And 0 for every other host that has had a VM of that name in the time range."""
    there = "count_over_time(pinwatch_longterm_pins_total{VM}[$__range])"
    return f"{by_host}\nor 0 * group by (instance) ({there})"


def over_time(recorded: str, by: str, where: str) -> str:
    """How many in each step of a graph. The rule runs each minute, so no step may be shorter."""
    return f"sum by ({by}) (sum_over_time({recorded}{{{where}}}[$__interval]))"


def grown(metric: str, by: str, where: str) -> str:
    """What a counter grew by that comes as a new series, with more than 0 in it: increase() does
    not see where that comes from, and says 0. New is a series that is there less often than
    pinwatch answered; so nothing is new to a Prometheus that has just begun or come back."""
    selected, lately = f"{metric}{{{where}}}", "[$__rate_interval]"
    hosts = "HOSTS" if where == "VM" else where
    return (
        f"sum by ({by}) (\n"
        f"  (\n"
        f"    {selected} and count_over_time({selected}{lately})\n"
        f"    < on (job, instance) group_left ()\n"
        f"    max by (job, instance) (sum_over_time(up{{{hosts}}}{lately}))\n"
        f"  )\n"
        f"  or increase({selected}{lately})\n"
        f")"
    )
