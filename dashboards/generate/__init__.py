"""The Grafana dashboards as typed code, and rules for the Prometheus operator. `make dashboards`
writes them to dashboards_out/ and kubernetes/."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.generate import fleet, host, itself, operator, vm

OUT = Path(__file__).resolve().parents[1] / "dashboards_out"
BUILDERS = {
    "pinwatch-fleet": fleet.build,
    "pinwatch-host": host.build,
    "pinwatch-vm": vm.build,
    "pinwatch-itself": itself.build,
}


def text(dashboard: Dashboard) -> str:
    """Classic JSON, as it is committed. Grafana wants `id: null` in what it is to give an id, and
    links to a panel last only if the panel's number does."""
    plain = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder))
    for number, panel in enumerate(plain["panels"], start=1):
        panel["id"] = number
    return json.dumps({"id": None, **plain}, indent=2) + "\n"


def texts() -> dict[Path, str]:
    """What each generated file must hold."""
    boards = {OUT / f"{uid}.json": text(build(uid)) for uid, build in BUILDERS.items()}
    return boards | {operator.RULE: operator.rule()}
