"""The local API: whose pins it gives."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import quote

import pytest

from pinwatch.aggregate.ledger import Ledger
from pinwatch.serve import App
from tests.unit.make import FACTS, VM, failure

NOVA = replace(VM, name="instance-0000002a", uuid="0b1c2d3e", alias="web 1")


def failures(vm: str) -> list[str]:
    """Names of the VMs whose failures are given when asked for `vm`."""
    ledger = Ledger()
    for one in (VM, NOVA):
        ledger.add_failure(failure(vm=one))
    app = App(latest=ledger.snapshot, facts=FACTS, ready=lambda: True)
    environ = {
        "PATH_INFO": "/api/v1/failures", "REQUEST_METHOD": "GET", "pinwatch.local": True,
        "QUERY_STRING": f"vm={quote(vm)}",
    }  # fmt: skip
    body = b"".join(app(environ, lambda _status, _headers: None))
    return [found["vm"]["name"] for found in json.loads(body)["failures"]]


@pytest.mark.parametrize("name", ["instance-0000002a", "web 1", "0b1c2d3e"])
def test_a_vm_is_found_by_name_alias_and_uuid(name: str) -> None:
    assert failures(name) == ["instance-0000002a"]


def test_without_a_name_all_are_given_and_with_a_wrong_one_none() -> None:
    assert failures("") == ["instance-0000002a", "web-01"]
    assert failures("web") == []
