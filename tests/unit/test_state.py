"""The state document: true of the snapshot, valid by its schema, bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pinwatch.expose import state
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import Vm
from pinwatch.playback import Playback
from tests.unit.make import failure, free, outlook, slow_pin

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/state.schema.json").read_text())
RECORDINGS = sorted((ROOT / "tests/replay").glob("*.jsonl.gz"))
EMPTY = Snapshot(
    time_s=9.0, vms=(), hints={}, devices={}, host_counters={}, vm_counters={}, durations=(),
    losses={"ring_full": 3, "frames_full": 0}, reconciliation={}, failures=(), slow_pins=(),
    stuck=(), hooks=(
        HookState(hook="cma", symbol="cma_alloc", mode=Mode.OFF, reason="not there"),
        HookState(hook="gup", symbol="gup", mode=Mode.FENTRY),
    ),
)  # fmt: skip


def valid(snapshot: Snapshot) -> dict[str, Any]:
    """The document after a journey as JSON."""
    made: dict[str, Any] = json.loads(json.dumps(state.document(snapshot)))
    jsonschema.validate(made, SCHEMA)
    return made


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_recordings_give_valid_documents(path: Path) -> None:
    snapshot = Playback(str(path)).end()
    made = valid(snapshot)
    assert made["failures"][0]["number"] == snapshot.failures[-1].number
    assert made["more"]["failures"] == max(0, len(snapshot.failures) - state.MAX_PINS)


def test_losses_and_hooks_that_are_off() -> None:
    host = valid(EMPTY)["host"]
    assert host["losses"] == {"ring_full": 3}
    assert [hook["hook"] for hook in host["hooks_off"]] == ["cma"]
    assert host["hooks_attached"] == 1


def test_a_vm_with_its_forecast() -> None:
    vm = Vm(name="web-01")
    counted: dict[str, dict[tuple[str, ...], float]] = {
        "pinwatch_longterm_pin_failures_total": {("vfio_type1", "a", "b"): 2.0, ("x", "a", "b"): 1},
        "pinwatch_longterm_pinned_pages_total": {("vfio_type1",): 512.0},
    }
    made = valid(
        replace(EMPTY, vms=(vm,), vm_counters={"web-01": counted}, free=free(),
                outlooks={"web-01": outlook()}, slow_pins=(slow_pin(),))
    )  # fmt: skip
    (told,) = made["vms"]
    assert (told["failed"], told["pinned_bytes"]) == (3, 2 << 20)
    assert told["forecast"]["verdict"] == "fine"
    assert [one["bytes"] for one in told["forecast"]["placement"]] == [128 << 20]
    assert made["host"]["free"]["pinnable"] == 256 << 20
    assert made["host"]["free"]["movable"] == 1 << 30


def test_it_is_bounded() -> None:
    vms = tuple(Vm(name=f"vm-{n}", alias="x" * 100_000) for n in range(1200))
    failures = tuple(failure(number=n) for n in range(1, 302))
    made = valid(
        replace(EMPTY, vms=vms, failures=failures, outlooks={vm.name: outlook() for vm in vms})
    )
    assert made["more"] == {"vms": 200, "failures": 201, "slow": 0, "stuck": 0}
    assert [one["number"] for one in made["failures"][:2]] == [301, 300]
    assert len(json.dumps(made)) < 5_000_000
