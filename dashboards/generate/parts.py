"""Panels, variables and links that all dashboards share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from dashboards.generate.promql import Query, firing, promql

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

# The dashboards, as links at the top of each call them.
_NAMES = {
    "pinwatch-fleet": "Fleet",
    "pinwatch-host": "Host",
    "pinwatch-vm": "VM",
    "pinwatch-itself": "pinwatch itself",
}

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


def board(uid: str, description: str, of: str) -> dashboard.Dashboard:
    """A dashboard without panels, of what a selector in promql.py is: HOSTS, HOST or VM."""
    made = (
        dashboard.Dashboard(f"pinwatch / {_NAMES[uid]}")
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(values.DashboardCursorSync.CROSSHAIR)
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts of pinwatch")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr(promql(firing(of)))
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for variable in _variables(of):
        made.with_variable(variable)
    for link in _links(uid):
        made.link(link)
    return made


def _links(uid: str) -> Iterator[dashboard.DashboardLink]:
    """To the other dashboards and to the runbooks."""
    for other, name in _NAMES.items():
        if other != uid:
            yield _link(name, _url(other)).icon("dashboard").keep_time(True)
    yield _link("Runbooks", RUNBOOKS).icon("doc").target_blank(True)


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).type(values.DashboardLinkType.LINK).url(url)


def _url(other: str) -> str:
    """With what is chosen here. Grafana keeps what a URL says even if it is none of a variable's
    values: "All", or several hosts, would leave the dashboard of one host empty. With no host said
    it shows the first."""
    names = ["datasource", "job", *(() if other == "pinwatch-host" else ("instance",))]
    return f"/d/{other}?" + "&".join(f"${{{name}:queryparam}}" for name in names)


def _variables(of: str) -> Iterator[dashboard.QueryVariable]:
    """Besides the data source. All jobs are those that have been found: dashboard-linter wants `.+`
    there, with which `up` and `process_...` would be those of everything that Prometheus scrapes.
    An alert still names the job where no pinwatch has answered in the whole time range."""
    found = '{__name__=~"pinwatch_build_info|ALERTS", alertname=~"|Pinwatch.+"}'
    yield _several(_variable("job", "Job", found))
    host = _variable("instance", "Host", 'pinwatch_build_info{job=~"$job"}')
    yield host if of == "HOST" else _several(host).all_value(".+")
    if of == "VM":
        yield _variable("vm", "VM", promql("pinwatch_longterm_pins_total{HOSTS}"))


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Of one value, at first the first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({query}, {name})")
        .refresh(values.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(values.VariableSort.ALPHABETICAL_ASC)
    )


def _several(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """At first all."""
    everything = values.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).current(everything)


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
BAD_AT_0 = _steps((None, "red"), (1, "green"))
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
    legend: str = "__auto",
) -> stat.Panel:
    """One number of now, red when it is bad. Should there be several, each has its legend."""
    target = _target(Query(expr, legend), 0, PromQueryFormat.TIME_SERIES).instant()
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
    none: str = "",
) -> timeseries.Panel:
    """Lines over time; `counted`: bars of how many, none of them narrower than a minute; `events`:
    with a dot for each event that Prometheus has as an exemplar; `none`: what it says where no line
    is good news."""
    panel = _told(timeseries.Panel(), title, description, unit, (width, height))
    if none:
        panel.no_value(none)
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


def alerts(width: int, of: str) -> table.Panel:
    """What fires now, with a link to each runbook."""
    return listing(
        "Firing alerts",
        "Alerts of pinwatch that fire now, by Prometheus's own rules. The name leads to the "
        "runbook. One without a host is of all of them. Empty when nothing fires.",
        "none",
        firing(of),
        ("alertname", "severity", "instance", "vm"),
        "Firing",
        width=width,
        shown=False,
    )
