"""`make pictures`: what each dashboard shows of the fleet in tests/monitoring, as a PNG each.

Not what Grafana draws, but the data of each panel at its place, as a person would read it there.
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from tests.monitoring import history
from tests.monitoring.fleet import fleet
from tests.monitoring.queries import BOARDS, Prometheus, Query, Series, board

_CELL_INCHES = 0.75, 0.42  # of Grafana's grid
_SHORT = 26
# What somebody has chosen, where not all is shown.
_CHOSEN = {"pinwatch-host": {"instance": history.BAD_HOST}, "pinwatch-vm": {"vm": "web-01"}}
Panel = dict[str, Any]


def in_unit(value: float, unit: str) -> str:
    """As Grafana would write it, near enough."""
    if unit in ("bytes", "Bps"):
        for size, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{'/s' if unit == 'Bps' else ''}"
    if unit == "percentunit":
        return f"{value:.3%}"
    return f"{value:.4g}{' s' if unit == 's' else ''}"


def _unit(panel: Panel) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _legend(series: Series, target: dict[str, Any]) -> str:
    text = str(target["legendFormat"])
    for name, value in series["metric"].items():
        text = text.replace("{{" + name + "}}", value)
    return text[: 2 * _SHORT]


Answers = list[tuple[dict[str, Any], list[Series]]]


def _answers(prometheus: Prometheus, panel: Panel, chosen: dict[str, str]) -> Answers:
    return [
        (target, prometheus.ask(Query("", target["expr"], bool(target.get("range"))), **chosen))
        for target in panel["targets"]
    ]


def _nothing(axes: Axes, panel: Panel, answers: Answers) -> None:
    text = panel["fieldConfig"]["defaults"].get("noValue", "No data")
    axes.text(0.5, 0.5, text, ha="center", va="center", color="gray")
    axes.set_xticks([])
    axes.set_yticks([])


def _stat(axes: Axes, panel: Panel, answers: Answers) -> None:
    ((_, found),) = answers
    numbers = [float(series["value"][1]) for series in found]
    color = "white"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or max(numbers) >= step["value"]:
            color = {"green": "#cdebc8", "red": "#f2b8b5", "orange": "#ffdfb0"}[step["color"]]
    axes.set_facecolor(color)
    text = ", ".join(in_unit(number, _unit(panel)) for number in numbers)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=18)
    axes.set_xticks([])
    axes.set_yticks([])


def _lines(axes: Axes, panel: Panel, answers: Answers) -> None:
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    below: dict[float, float] = {}
    stacked = "stacking" in custom
    for target, found in answers:
        for series in found:
            times = [float(at) for at, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            dates = [datetime.fromtimestamp(at, UTC) for at in times]
            name = _legend(series, target)
            if not stacked:
                axes.plot(dates, values, label=name, linewidth=1)  # type: ignore[arg-type]
                continue
            bottom = [below.get(at, 0.0) for at in times]
            below |= {at: low + value for at, low, value in zip(times, bottom, values, strict=True)}
            axes.bar(dates, values, width=1 / 1440, bottom=bottom, label=name)  # type: ignore[arg-type]
    axes.yaxis.set_major_formatter(lambda value, _: in_unit(value, _unit(panel)))
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=5, loc="upper left", ncols=2)


def _bars(axes: Axes, panel: Panel, answers: Answers) -> None:
    ((target, found),) = answers
    ordered = sorted(found, key=lambda series: float(series["value"][1]))
    values = [float(series["value"][1]) for series in ordered]
    drawn = axes.barh([_legend(series, target) for series in ordered], values, color="#d9534f")
    axes.bar_label(drawn, [in_unit(value, _unit(panel)) for value in values], fontsize=7)
    axes.tick_params(labelsize=6)


def _heatmap(axes: Axes, panel: Panel, answers: Answers) -> None:
    ((_, found),) = answers
    ordered = sorted(found, key=lambda series: float(series["metric"]["le"]))
    cumulative = [[float(value) for _, value in series["values"]] for series in ordered]
    width = max(map(len, cumulative))
    rows = [[0.0] * (width - len(row)) + row for row in cumulative]
    below = [[0.0] * width, *rows[:-1]]
    cells = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(rows, below, strict=True)]
    axes.pcolormesh(cells, cmap="Oranges")
    axes.set_yticks(range(0, len(ordered), 4), [s["metric"]["le"][:7] for s in ordered[::4]])
    axes.tick_params(labelsize=6)


def _table(axes: Axes, panel: Panel, answers: Answers) -> None:
    names = panel["transformations"][-1]["options"]["renameByName"]
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    order: dict[int, float] = {}  # the value of the first query, by the identity of a row
    for target, found in answers:
        column = f"Value #{target['refId']}" if len(panel["targets"]) > 1 else "Value"
        for series in found:
            labels = {name: value for name, value in series["metric"].items() if name in names}
            row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            if column in names:
                unit = units.get(names[column], _unit(panel))
                row[column] = in_unit(float(series["value"][1]), unit)
                order.setdefault(id(row), float(series["value"][1]))
    axes.axis("off")
    least_first = not panel.get("options", {}).get("sortBy", [{"desc": True}])[0]["desc"]
    ordered = sorted(
        rows.values(), key=lambda row: order.get(id(row), 0.0) * (1 if least_first else -1)
    )
    most = int(panel["gridPos"]["h"] * 1.4)
    cells = [[row.get(name, "")[:_SHORT] for name in names] for row in ordered[:most]]
    drawn = axes.table(cells, colLabels=list(names.values()), loc="upper left", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6)


_DRAWN: dict[str, Callable[[Axes, Panel, Answers], None]] = {
    "stat": _stat, "timeseries": _lines, "bargauge": _bars, "heatmap": _heatmap, "table": _table,
}  # fmt: skip


def draw(path: Path, prometheus: Prometheus, out: Path) -> None:
    """One dashboard."""
    shown = board(path)
    wide, high = _CELL_INCHES
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown["panels"])
    figure = pyplot.figure(figsize=(24 * wide, rows * high))
    for panel in shown["panels"]:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - place["y"] / rows
        if panel["type"] == "row":
            figure.text(left + 0.005, top - 0.7 / rows, panel["title"], fontsize=12, weight="bold")
            continue
        box = (left + 0.025, top - (place["h"] - 0.6) / rows, place["w"] / 24 - 0.03,
               (place["h"] - 1.6) / rows)  # fmt: skip
        axes = figure.add_axes(box)
        axes.set_title(textwrap.shorten(panel["title"], 50), fontsize=8, loc="left")
        answers = _answers(prometheus, panel, _CHOSEN.get(path.stem, {}))
        drawing = _DRAWN[panel["type"]] if any(found for _, found in answers) else _nothing
        drawing(axes, panel, answers)
    figure.savefig(out / f"{path.stem}.png", dpi=75)
    pyplot.close(figure)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, fleet(Path(home)) as prometheus:
        for path in BOARDS:
            draw(path, prometheus, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
