"""A frame of `pinwatch top`: a document and a view as lines of text of a given size. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from pinwatch.expose.outlook import about
from pinwatch.top.view import Document, Row, Screen, View, chosen, rows

_VERDICTS = {
    "fine": ("fine", "green"),
    "at_risk": ("may fail", "yellow"),
    "will_fail": ("will fail", "bold red"),
}
_HELP = (
    ("↑ ↓  k j", "select a VM"),
    ("Enter", "that VM: its failures, hints, devices, forecast; again: back"),
    ("s", "sort by failed, risk, pinned, moved, name"),
    ("/", "show VMs whose name, alias or uuid has a text; Esc shows all"),
    ("p, Space", "pause and go on"),
    ("q", "quit"),
    ("", ""),
    ("failed", "long-term pins that failed since pinwatch started"),
    ("next pin", "would a pin of all its memory work now"),
    ("pinned", "memory pinned since pinwatch started, not what is pinned now"),
    ("moved", "memory that pins moved out of ZONE_MOVABLE and CMA first"),
    ("now", "how much of that a second"),
    ("memory", "█ may stay where it is  ▒ must move first"),
    ("", "? not known  · not there yet"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a frame is drawn of. `notice`: what is wrong with the source, or where in the past."""

    document: Document
    moving: Mapping[str, float] = field(default_factory=dict)  # bytes a second, by VM
    notice: str = ""
    wrong: bool = False  # the notice is a trouble


def draw(scene: Scene, view: View, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of at most `width` cells."""
    top = list(_head(scene, view))
    room = max(height - len(top) - 1, 0)
    if view.screen is Screen.HELP:
        body = [Text(f"  {key:<10} {what}") for key, what in _HELP]
    elif view.screen is Screen.DETAIL:
        body = list(_detail(scene.document, chosen(view, scene.document), width))
    else:
        body = _list(scene, view, width, room)
    lines = [*top, *body[:room]]
    lines += [Text()] * (height - 1 - len(lines))
    lines = [*lines, _foot(view)][-height:] if height else []
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


# ---- the host -------------------------------------------------------------------------------


def _head(scene: Scene, view: View) -> Iterator[Text]:
    """What is wrong comes first, and only then."""
    document, host = scene.document, scene.document["host"]
    line = Text.assemble(("pinwatch top", "bold"), f"  {clock(document['time_s'])}")
    if scene.notice:
        line.append(f"  {scene.notice}", "bold red" if scene.wrong else "cyan")
    if view.paused:
        line.append("  paused", "bold yellow")
    yield line
    if host["losses"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in host["losses"].items())
        yield Text(f"LOST  {kinds}: there may be more than is shown", "bold red")
    # one without a symbol this kernel does not have, which is no fault
    if off := [hook for hook in host["hooks_off"] if hook["mode"] == "off" and hook["symbol"]]:
        hooks = "; ".join(f"{hook['hook']} ({hook['reason']})" for hook in off)
        yield Text(f"OFF   {hooks}", "bold yellow")
    for one in document["stuck"][:2]:
        yield Text(f"STUCK {one['headline']}", "bold red")
    if len(document["stuck"]) > 2:
        yield Text(f"      and {len(document['stuck']) - 2} more are stuck", "red")
    yield _free(host)
    yield _moved(host)
    yield Text()


def _free(host: Document) -> Text:
    free = host["free"]
    if free is None:
        return Text("free for pins: not read yet")
    words = f"free for pins {about(free['pinnable'])} of {about(free['pinnable_total'])}"
    words += f"   only for what can move {about(free['movable'])}"
    if free["cma_total"]:
        words += f"   CMA {about(free['cma'])} of {about(free['cma_total'])}"
    return Text(words)


def _moved(host: Document) -> Text:
    moved, compaction = host["migrations"], host["compaction"]
    words = f"pages moved {moved['ok']:,.0f}, not moved {moved['failed']:,.0f}"
    if compaction["ok"] + compaction["failed"]:
        words += f" (compaction {compaction['ok']:,.0f}, {compaction['failed']:,.0f})"
    if failures := host["cma_alloc_failures"]:
        words += f"   CMA allocations failed {failures:,}"
    return Text(words)


# ---- the list -------------------------------------------------------------------------------


def _list(scene: Scene, view: View, width: int, room: int) -> list[Text]:
    """VMs above, failures below, which have a third at least."""
    shown = rows(view, scene.document)
    feed = max(room // 3, room - len(shown) - 2)
    space = max(room - feed - 2, 1)
    one = chosen(view, scene.document)
    at = shown.index(one) if one is not None else 0
    first = max(0, min(at - space // 2, len(shown) - space))
    name = min(max(width - 64, 12), 40)
    bar = max(width - name - 58, 0)
    title = f"  {'VM':<{name}} {'failed':>7} {'next pin':<9} {'pinned':>9} {'moved':>9} {'now':>11}"
    lines = [Text(f"{title}  {'memory' if bar > 5 else ''}", "bold underline")]
    lines += [_row(scene, row, row is one, name, bar) for row in shown[first : first + space]]
    if not shown:
        lines.append(Text("  no VM has that in its name" if view.needle else "  no VM yet", "dim"))
    hidden = len(shown) - len(shown[first : first + space])
    lines.append(Text(f"  {hidden} more VMs" if hidden else "", "dim"))
    return [*lines, *_feed(scene.document["failures"], max(feed - 1, 0))]


def _row(scene: Scene, row: Row, selected: bool, name: int, bar: int) -> Text:
    forecast = row["forecast"]
    words, style = _VERDICTS[forecast["verdict"]] if forecast else ("", "")
    title = row["name"] if len(row["name"]) <= name else row["name"][: name - 1] + "…"
    speed = scene.moving.get(row["name"], 0)
    line = Text("> " if selected else "  ", "bold cyan")
    line.append(f"{title:<{name}} ", "bold" if selected else "")
    line.append(f"{row['failed']:>7} ", "bold red" if row["failed"] else "dim")
    line.append(f"{words:<9} ", style)
    line.append(f"{about(row['pinned_bytes']):>9} {about(row['migrated_bytes']):>9} ")
    line.append(f"{about(int(speed)) + '/s' if speed else '':>11}  ", "yellow")
    line.append_text(_bar(forecast, bar) if forecast and bar > 5 else Text())
    return line


def _bar(forecast: Row, width: int) -> Text:
    """Guest memory by whether a pin must move it."""
    sums = {"stay": 0, "move": 0, "unknown": 0}
    for part in forecast["placement"]:
        moves = part["zone"] == "Movable" or part["cma"] == "yes"
        unknown = part["zone"] == "unknown" or part["cma"] == "unknown"
        sums["move" if moves else "unknown" if unknown else "stay"] += part["bytes"]
    whole = max(forecast["guest_bytes"], sum(sums.values()), 1)
    bar = Text()
    for kind, sign, style in (
        ("stay", "█", "green"),
        ("move", "▒", "yellow"),
        ("unknown", "?", ""),
    ):
        bar.append(sign * round(width * sums[kind] / whole), style)
    bar.truncate(width)
    bar.append("·" * (width - bar.cell_len), "dim")
    return bar


def _feed(failures: list[Row], room: int) -> Iterator[Text]:
    if not room:
        return
    yield Text("newest failures", "bold underline")
    if not failures:
        yield Text("  none since pinwatch started", "green")
    for one in failures[: room - 1]:
        holder = "" if one["holder"] == "none" else f"  {one['holder_words']}"
        yield Text.assemble(
            (f"  {clock(one['time_s'])} ", "dim"), (one["vm"], "bold"),
            f"  {about(one['bytes'])} {one['errno']} ", (one["reason"], "red"), holder,
        )  # fmt: skip


# ---- one VM ---------------------------------------------------------------------------------


def _detail(document: Document, row: Row | None, width: int) -> Iterator[Text]:
    if row is None:
        yield Text("  no VM is shown", "dim")
        return
    other = "  ".join(filter(None, (row["alias"], row["uuid"], row["platform"])))
    yield Text.assemble((row["name"], "bold"), f"  {other}")
    yield Text(
        f"  {row['pins']} pins, {row['failed']} failed, {row['slow']} slow; "
        f"{about(row['pinned_bytes'])} pinned since the start, "
        f"{about(row['migrated_bytes'])} moved for it"
    )
    mine = [one for one in document["failures"] if one["vm"] == row["name"]]
    yield from _feed(mine, min(len(mine), 5) + 2)
    if row["forecast"]:
        yield Text(row["forecast"]["headline"], "bold underline")
        for label, text in row["forecast"]["paragraphs"]:
            yield from _folded(f"{label}: {text}", width)
    for title in ("devices", "hints"):
        if row[title]:
            yield Text(title, "bold underline")
            for text in row[title]:
                yield from _folded(text, width)


def _folded(text: str, width: int) -> Iterator[Text]:
    """At spaces, by its cells: a name may have wide characters."""
    line = "  "
    for word in text.split(" "):
        if len(line) > 2 and Text(line + word).cell_len > width - 2:
            yield Text(line.rstrip())
            line = "    "
        line += word + " "
    yield Text(line.rstrip())


def _foot(view: View) -> Text:
    if view.typing:
        return Text.assemble(("/", "bold"), view.needle, ("_", "bold"), ("  Enter, Esc", "dim"))
    if view.screen is not Screen.LIST:
        return Text("Enter or q back", "dim")
    needle = f": {view.needle}" if view.needle else ""
    words = (
        f"↑↓ select  Enter detail  s sort: {view.sort}  / filter{needle}  p pause  ? help  q quit"
    )
    return Text(words, "dim")
