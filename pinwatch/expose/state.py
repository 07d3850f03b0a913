"""All that `pinwatch top` shows of one moment, as one JSON document (docs/api.md has its schema).

The same from the daemon's socket, from a recording, and from the history. Takes a Snapshot; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pinwatch.expose import gauges, outlook, words
from pinwatch.expose.metrics import free_bytes
from pinwatch.model.failure import Failure, SlowPin
from pinwatch.model.forecast import Outlook
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.placement import PAGE_BYTES
from pinwatch.model.snapshot import Counters, Labels, Snapshot
from pinwatch.model.vm import Vm

VERSION = 1
EVENTS = 50  # the newest
HINTS = 8  # of a VM

Document = dict[str, Any]


def document(snapshot: Snapshot) -> Document:
    """The whole."""
    return {
        "version": VERSION,
        "time_s": snapshot.time_s,
        "host": _host(snapshot),
        "vms": [_vm(vm, snapshot) for vm in snapshot.vms],
        "events": _events(snapshot),
        "stuck": [
            {"vm": one.vm.name, "headline": words.stuck_words(one), "age_s": one.age_s}
            for one in snapshot.stuck
        ],
    }


# ---- the host -------------------------------------------------------------------------------


def _host(snapshot: Snapshot) -> Document:
    migrations = snapshot.host_counters.get("pinwatch_host_migrations_total", {})
    free = free_bytes(snapshot.free)
    return {
        "free": [
            {"node": node, "zone": zone, "kind": kind, "bytes": int(size)}
            for (node, zone, kind), size in free.items()
        ],
        "migrations": [
            {"reason": reason, "result": result, "pages": int(pages)}
            for (reason, result), pages in migrations.items()
            if pages
        ],
        "cma_alloc_failures": _sum(snapshot.host_counters, "pinwatch_cma_alloc_failures_total"),
        "losses": {kind: count for kind, count in snapshot.losses.items() if count},
        "reconciliation": {name: n for name, n in snapshot.reconciliation.items() if n},
        "hooks": {
            "attached": sum(hook.attached for hook in snapshot.hooks),
            "waiting": sum(hook.mode is Mode.WAITING for hook in snapshot.hooks),
            "off": [_hook(hook) for hook in snapshot.hooks if hook.mode is Mode.OFF],
        },
    }


def _hook(hook: HookState) -> Document:
    return {"hook": hook.hook, "sees": hook.sees, "reason": hook.reason}


# ---- VMs ------------------------------------------------------------------------------------


def _vm(vm: Vm, snapshot: Snapshot) -> Document:
    counters = snapshot.vm_counters.get(vm.name, {})
    seen = snapshot.outlooks.get(vm.name)
    hints = snapshot.hints.get(vm.name, ())[-HINTS:]
    return {
        "name": vm.name,
        "alias": vm.alias,
        "uuid": vm.uuid,
        "platform": str(vm.platform),
        "pins": _sum(counters, "pinwatch_longterm_pins_total"),
        "failures": _sum(counters, "pinwatch_longterm_pin_failures_total"),
        "slow": _sum(counters, "pinwatch_longterm_slow_pins_total"),
        "pinned_bytes": _sum(counters, "pinwatch_longterm_pinned_pages_total") * PAGE_BYTES,
        "migrated_pages": _sum(counters, "pinwatch_pin_migrated_pages_total"),
        "reasons": _reasons(counters),
        "hints": words.hints_words(hints) if hints else "",
        "devices": [words.device_words(one) for one in snapshot.devices.get(vm.name, ())],
        "outlook": _outlook(vm, seen) if seen else None,
    }


def _sum(counters: Counters, metric: str) -> int:
    return int(sum(counters.get(metric, {}).values()))


def _reasons(counters: Counters) -> dict[str, int]:
    """Failures by reason."""
    found: dict[str, int] = {}
    by_labels: Mapping[Labels, float] = counters.get("pinwatch_longterm_pin_failures_total", {})
    for (_, reason, _), count in by_labels.items():
        found[reason] = found.get(reason, 0) + int(count)
    return found


def _outlook(vm: Vm, seen: Outlook) -> Document:
    place, forecast = seen.case.placement, seen.forecast
    told = outlook.explain(vm, seen.case, forecast)
    return {
        "time_s": seen.time_s,
        "verdict": str(forecast.verdict),
        "risks": [str(risk) for risk in forecast.risks],
        "headroom_bytes": forecast.headroom_bytes,
        "must_move_bytes": forecast.must_move.most,
        "guest_bytes": place.guest_bytes,
        "error": place.error,
        "memory": [
            {"node": node, "zone": zone, "cma": cma, "size": size, "bytes": int(count)}
            for (node, zone, cma, size), count in gauges.memory(place).items()
        ],
        "paragraphs": [list(one) for one in told.paragraphs],
    }


# ---- what happened --------------------------------------------------------------------------


def _events(snapshot: Snapshot) -> list[Document]:
    """The newest first."""
    found = [*map(_failed, snapshot.failures[-EVENTS:]), *map(_slow, snapshot.slow_pins[-EVENTS:])]
    return sorted(found, key=lambda one: one["id"], reverse=True)[:EVENTS]


def _failed(pin: Failure) -> Document:
    return _event(pin, "failed", words.headline(pin), pin.reason, pin.holder.holder)


def _slow(pin: SlowPin) -> Document:
    return _event(pin, "slow", words.explain_slow(pin).headline, pin.cause)


def _event(
    pin: Failure | SlowPin, kind: str, headline: str, reason: str, holder: str = ""
) -> Document:
    return {
        "id": pin.id,
        "time_s": pin.time_s,
        "kind": kind,
        "vm": pin.vm.name,
        "headline": headline,
        "source": str(pin.pin.source),
        "reason": str(reason),
        "holder": str(holder),
    }
