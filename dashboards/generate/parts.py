"""Panels, variables and links that all dashboards share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_values
from grafana_foundation_sdk.models import dashboard as values
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.generate.promql import FIRING, Query, promql

RUNBOOKS = "https://pinwatch.example/runbooks"  # also in prometheus_alerts.yaml
TAG = "pinwatch"
WIDTH = 24
SOURCE = values.DataSourceRef(type_val="prometheus", uid="${datasource}")

_ALONG = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
_HOST_URL = "/d/pinwatch-host?var-instance=${__value.text:percentencode}&" + _ALONG
_VM_URL = (
    "/d/pinwatch-vm?var-vm=${__value.text:percentencode}"
    "&var-instance=${__data.fields.Host:percentencode}&" + _ALONG
)
_RUNBOOK_URL = RUNBOOKS + "/${__value.text}.md"

# How tables name labels, and where a click on one leads.
COLUMNS = {
    "instance": "Host", "vm": "VM", "reason": "Reason", "holder": "In the way", "source": "Source",
    "risk": "Risk", "verdict": "Verdict", "alertname": "Alert", "severity": "Severity",
    "hook": "Hook", "symbol": "Kernel function", "mode": "Mode", "zone": "Zone", "node": "Node",
    "area": "Area", "kind": "Kind", "cma": "In CMA", "size": "Page size", "hint": "Hint",
    "timing": "When", "errno": "Refused with", "device": "Device", "driver": "Driver",
    "iommu_group": "IOMMU group",
    "uuid": "UUID", "platform": "Platform", "vmm": "VMM", "basis": "Named by", "alias": "Alias",
    "project": "Project", "pod": "Pod", "version": "pinwatch", "kernel": "Kernel",
}  # fmt: skip
_LINKS = {
    "instance": ("What happens on this host", _HOST_URL),
    "vm": ("What this VM pins", _VM_URL),
    "alertname": ("Runbook", _RUNBOOK_URL),
}


def board(uid: str, title: str, description: str, *variables: str) -> dashboard.Dashboard:
    """A dashboard without panels. `variables` besides the data source: job, instance, vm."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(values.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("pinwatch")
            .type(values.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .link(
            dashboard.DashboardLink("Runbooks")
            .type(values.DashboardLinkType.LINK)
            .icon("doc")
            .url(RUNBOOKS)
            .target_blank(True)
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts of pinwatch")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr(promql(FIRING))
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for name in variables:
        made.with_variable(_VARIABLES[name])
    return made


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({query}, {name})")
        .refresh(values.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(values.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(values.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


_VARIABLES = {
    "job": _variable("job", "Job", "pinwatch_build_info"),
    "instance": _variable("instance", "Host", 'pinwatch_build_info{job=~"$job"}'),
    "vm": _variable("vm", "VM", promql("pinwatch_longterm_pins_total{HOST}")),
}

AnyPanel = TypeVar(
    "AnyPanel", stat.Panel, table.Panel, timeseries.Panel, bargauge.Panel, heatmap.Panel
)


def _told(
    panel: AnyPanel, title: str, description: str, unit: str, size: tuple[int, int]
) -> AnyPanel:
    width, height = size
    panel.title(title).description(description).unit(unit).datasource(SOURCE)
    panel.span(width).height(height)
    return panel


def _target(query: Query, at: int, kind: PromQueryFormat) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(promql(query.expr)).legend_format(query.legend)
    return target.ref_id(ascii_uppercase[at]).format(kind).datasource(SOURCE)


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    found = [values.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(values.ThresholdsMode.ABSOLUTE).steps(found)


GOOD = _steps((None, "green"))
BAD_ABOVE_0 = _steps((None, "green"), (1, "red"))
DOUBTFUL_ABOVE_0 = _steps((None, "green"), (1, "orange"))
BAD_BELOW_0 = _steps((None, "red"), (0, "green"))
OLD = _steps((None, "green"), (60, "orange"), (120, "red"))  # seconds; the last raises an alert


def number(
    title: str,
    description: str,
    unit: str,
    expr: str,
    *,
    width: int = 4,
    steps: dashboard.ThresholdsConfig = GOOD,
) -> stat.Panel:
    """One number of now, red when it is bad."""
    target = _target(Query(expr), 0, PromQueryFormat.TIME_SERIES).instant()
    panel = _told(stat.Panel(), title, description, unit, (width, 4))
    return (
        panel.with_target(target)
        .thresholds(steps)
        .color_mode(common_values.BigValueColorMode.BACKGROUND)
        .graph_mode(common_values.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    counted: bool = False,
    events: bool = False,
) -> timeseries.Panel:
    """Lines over time; `counted`: bars of how many, none of them narrower than a minute; `events`:
    with a dot for each event that Prometheus has as an exemplar."""
    panel = _told(timeseries.Panel(), title, description, unit, (width, height))
    for at, query in enumerate(queries):
        target = _target(query, at, PromQueryFormat.TIME_SERIES).range()
        panel.with_target(target.exemplar(True) if events else target)
    panel.tooltip(common.VizTooltipOptions().mode(common_values.TooltipDisplayMode.MULTI))
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_values.LegendDisplayMode.LIST)
        .placement(common_values.LegendPlacement.BOTTOM)
    )
    if stacked or counted:
        panel.stacking(common.StackingConfig().mode(common_values.StackingMode.NORMAL))
        panel.fill_opacity(40 if stacked else 100)
    if counted:
        panel.draw_style(common_values.GraphDrawStyle.BARS).interval("1m").decimals(0)
    return panel


def ranking(
    title: str, description: str, unit: str, query: Query, *, width: int = 8, height: int = 8
) -> bargauge.Panel:
    """A bar for each, of now."""
    panel = _told(bargauge.Panel(), title, description, unit, (width, height))
    target = _target(query, 0, PromQueryFormat.TIME_SERIES).instant()
    return (
        panel.with_target(target)
        .thresholds(GOOD)
        .color_scheme(dashboard.FieldColor().mode(values.FieldColorModeId.CONTINUOUS_YL_RD))
        .orientation(common_values.VizOrientation.HORIZONTAL)
        .display_mode(common_values.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def listing(
    title: str,
    description: str,
    unit: str,
    expr: str,
    labels: Sequence[str],
    value: str,
    *,
    width: int = 12,
    height: int = 8,
    also: Mapping[str, tuple[str, str]] | None = None,
    shown: bool = True,
    least_first: bool = False,
) -> table.Panel:
    """A table of now: a column for each label, and `value` for what the query gives. `also` are
    columns of their own, by name: query and unit. `shown`: False where the value says nothing."""
    panel = _told(table.Panel(), title, description, unit, (width, height))
    others = [(name, *query) for name, query in (also or {}).items()]
    queries = [(value, expr, unit), *others]
    for at, (_, each, _) in enumerate(queries):
        panel.with_target(_target(Query(each), at, PromQueryFormat.TABLE).instant())
    if others:
        panel.with_transformation(_transformed("merge", {}))
        columns = {f"Value #{ascii_uppercase[at]}": name for at, (name, *_) in enumerate(queries)}
    else:
        columns = {"Value": value}
    columns = {label: COLUMNS[label] for label in labels} | (columns if shown else {})
    order = {name: at for at, name in enumerate(columns)}
    for made in (
        _transformed("filterFieldsByName", {"include": {"names": list(columns)}}),
        _transformed("organize", {"indexByName": order, "renameByName": columns}),
    ):
        panel.with_transformation(made)
    for name, _, other in others:
        panel.override_by_name(name, [_property("unit", other)])
    for label in labels:
        if label in _LINKS:
            link_title, url = _LINKS[label]
            link = {"title": link_title, "url": url, "targetBlank": label == "alertname"}
            panel.override_by_name(COLUMNS[label], [_property("links", [link])])
    if shown:
        panel.sort_by([common.TableSortByFieldState().display_name(value).desc(not least_first)])
    return panel


def _transformed(how: str, options: dict[str, Any]) -> values.DataTransformerConfig:
    return values.DataTransformerConfig(id_val=how, options=options)


def _property(name: str, value: Any) -> values.DynamicConfigValue:
    return values.DynamicConfigValue(id_val=name, value=value)


def buckets(title: str, description: str, expr: str, *, width: int = 12) -> heatmap.Panel:
    """A histogram over time; its buckets are seconds."""
    panel = _told(heatmap.Panel(), title, description, "short", (width, 8))
    target = _target(Query(expr, "{{le}}"), 0, PromQueryFormat.HEATMAP).range()
    return panel.with_target(target).calculate(False).y_axis(heatmap.YAxisConfig().unit("s"))


def alerts(width: int) -> table.Panel:
    """What fires now, with a link to each runbook."""
    return listing(
        "Firing alerts",
        "Alerts of pinwatch that fire now, by Prometheus's own rules. The name leads to the "
        "runbook. Empty when nothing fires.",
        "none",
        FIRING,
        ("alertname", "severity", "instance", "vm"),
        "Firing",
        width=width,
        shown=False,
    )
