"""A Prometheus and an Alertmanager as an operator would have them, which watch one pinwatch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.monitoring.queries import ALERTS, RULES, SHIPPED
from tests.monitoring.servers import Mailbox, alertmanager, mailbox, prometheus

EXAMPLE = SHIPPED / "alertmanager/alertmanager.example.yaml"
TEMPLATE = EXAMPLE.with_name("pinwatch.tmpl")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who watches: a server's URL, and what those got who are told of alerts."""

    url: str
    box: Mailbox

    def messages(self, receiver: str, part: str) -> list[str]:
        """`part` ("title", "text") of all that a receiver of the example's got."""
        posted = self.box.posted.get(f"/{receiver}", ())
        return [message["attachments"][0][part] for message in posted]


@contextmanager
def watching(home: Path, target: str, *, instance: str = "", every: str = "1s") -> Iterator[Watch]:
    """All shipped rules and alerts, the example's routes, and a scrape each `every`. `instance` is
    the label of the target, else its address."""
    with (
        mailbox() as (post_to, box),
        alertmanager(home, _routing(post_to), TEMPLATE) as to,
        prometheus(home, _scraping(target, instance, every, to)) as url,
    ):
        yield Watch(url, box)


@contextmanager
def routing(home: Path, wait: str) -> Iterator[Watch]:
    """The Alertmanager alone, which waits so long for what belongs to a message; its URL."""
    with mailbox() as (post_to, box), alertmanager(home, _routing(post_to, wait), TEMPLATE) as url:
        yield Watch(url, box)


def _routing(post_to: str, wait: str = "0s") -> dict[str, Any]:
    """The example, with short waits and all receivers on this machine."""
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": wait, "group_interval": "1s"}
    for receiver in config["receivers"]:
        for slack in receiver.get("slack_configs", ()):
            slack["api_url"] = f"{post_to}/{receiver['name']}"
    return config


def _scraping(target: str, instance: str, every: str, to: str) -> dict[str, Any]:
    static = {"targets": [target], "labels": {"instance": instance} if instance else {}}
    managers = [{"static_configs": [{"targets": [to.removeprefix("http://")]}]}]
    return {
        "global": {"evaluation_interval": every, "scrape_interval": every},
        "rule_files": [str(RULES), str(ALERTS)],
        "scrape_configs": [{"job_name": "pinwatch", "static_configs": [static]}],
        "alerting": {"alertmanagers": managers},
    }
