"""`pinwatch top`: VMs, their failures and what the host has left, on the terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from pinwatch.commands import client, events, times
from pinwatch.commands.config import add_socket, socket_of
from pinwatch.errors import NoDaemonError, UsageError
from pinwatch.expose import state
from pinwatch.playback import Playback
from pinwatch.top.frame import Scene, clock, draw
from pinwatch.top.terminal import Ended, Terminal
from pinwatch.top.view import View, moving, press

INTERVAL_S = 2.0
TIMEOUT_S = 5.0
AROUND_S = 3600.0
STEP_S = 1.0  # of a recording, at least that much for each frame
Document = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    add_socket(source)
    source.add_argument("--replay", metavar="FILE", help="a recording; < and > step through it")
    source.add_argument(
        "--at", type=times.argument, metavar="TIME", help="of the history: 03:12, 2h ago, or ISO"
    )
    parser.add_argument("--once", action="store_true", help="print one frame")
    parser.add_argument("--state-dir", metavar="PATH", help="where the history lies")


def run(arguments: argparse.Namespace) -> int:
    if arguments.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(arguments)
    try:
        if arguments.replay:
            playback = Playback(arguments.replay)
            steps = list(_steps(playback))
            if not steps:
                playback.check()
                raise UsageError(f"{arguments.replay} holds no moment", hint="record for longer")
            _step_through(steps, len(steps) - 1)
            playback.check()
        elif arguments.at is not None:
            _step_through(*_past(arguments))
        else:
            _live(socket_of(arguments))
    except Ended as ended:
        return 128 + ended.number
    return 0


def _once(arguments: argparse.Namespace) -> int:
    if arguments.replay:
        playback = Playback(arguments.replay)
        scene = Scene(document=state.document(playback.end()), notice="end of the recording")
    elif arguments.at is not None:
        steps, at = _past(arguments)
        playback, scene = None, Scene(document=steps[at], notice=_date(steps[at]))
    else:
        playback = None
        scene = Scene(document=_ask(socket_of(arguments)))
    size = shutil.get_terminal_size()
    console = Console(highlight=False, emoji=False, markup=False, width=size.columns)
    for line in draw(scene, View(), size.columns, size.lines - 1)[:-1]:
        console.print(line)
    if playback is not None:
        playback.check()
    return 0


def _ask(socket: str) -> Document:
    return client.get(socket, "/api/v1/state", timeout_s=TIMEOUT_S)


# ---- live -----------------------------------------------------------------------------------


class _Feed:
    """Asks the daemon in a thread of its own, so that keys never wait for it."""

    def __init__(self, socket: str, terminal: Terminal) -> None:
        self._socket, self._terminal = socket, terminal
        self.document = _ask(socket)
        self.old: Document | None = None
        self.gone = ""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_S)
            try:
                new = _ask(self._socket)
            except NoDaemonError:
                self.gone = "the daemon does not answer"
            else:
                if new["time_s"] != self.document["time_s"]:
                    self.old, self.document = self.document, new
                self.gone = ""
            self._terminal.wake()

    @property
    def scene(self) -> Scene:
        document, notice = self.document, self.gone
        age = time.time() - document["time_s"]
        if notice or age > 30:
            notice += f"{', ' if notice else ''}this is {age:.0f} s old"
        return Scene(
            document=document, moving=moving(self.old, document), notice=notice, wrong=bool(notice)
        )


def _live(socket: str) -> None:
    _ask(socket)  # with no daemon at all, say so on the plain terminal
    with Terminal() as terminal:
        feed, view = _Feed(socket, terminal), View()
        scene = feed.scene
        while not view.quit:
            scene = scene if view.paused else feed.scene
            terminal.show(draw(scene, view, *terminal.size))
            for key in terminal.keys(None):
                view = press(view, key, scene.document)


# ---- the past ---------------------------------------------------------------------------------


def _past(arguments: argparse.Namespace) -> tuple[list[Document], int]:
    """An hour of states on each side of that time, and which of them was the newest then."""
    steps = events.reader(arguments).moments(arguments.at - AROUND_S, arguments.at + AROUND_S)
    before = sum(one["time_s"] <= arguments.at for one in steps)
    if not before:
        raise UsageError(
            "the history has no state of that time", hint="it has one a minute while pinwatch runs"
        )
    return steps, before - 1


def _date(document: Document) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(document["time_s"]))


def _steps(playback: Playback) -> Iterator[Document]:
    """Its moments, those that lie too close together left out; the last is the end."""
    last, snapshot = 0.0, None
    for snapshot in playback.moments():
        if snapshot.time_s - last >= STEP_S:
            last = snapshot.time_s
            yield state.document(snapshot)
            snapshot = None
    if snapshot is not None:
        yield state.document(snapshot)


def _step_through(steps: list[Document], at: int) -> None:
    with Terminal() as terminal:
        view = View()
        while not view.quit:
            old = steps[at - 1] if at else None
            where = (
                f"{_date(steps[at])}, {at + 1} of {len(steps)}, "
                f"until {clock(steps[-1]['time_s'])}: < > steps"
            )
            scene = Scene(document=steps[at], moving=moving(old, steps[at]), notice=where)
            terminal.show(draw(scene, view, *terminal.size))
            for key in terminal.keys(None):
                if key in ("<", ">", ",", ".") and not view.typing:
                    at = min(max(at + (1 if key in (">", ".") else -1), 0), len(steps) - 1)
                else:
                    view = press(view, key, steps[at])
