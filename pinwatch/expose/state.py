"""The state document: all that `pinwatch top` shows of one moment, as one JSON value.

The same from the local API, a recording and history; docs/state.schema.json is its schema. Takes a
Snapshot; lists are bounded, and `more` says of what there was more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pinwatch.aggregate.ledger import errno_name
from pinwatch.expose import gauges, outlook, words
from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.forecast import Outlook
from pinwatch.model.kernel import HookState
from pinwatch.model.placement import MOVABLE, PAGE_BYTES, FreeMemory
from pinwatch.model.snapshot import Counters, Snapshot
from pinwatch.model.vm import Vm

FORMAT = 1
MAX_VMS = 1000  # as many as have series of their own, unless configured
MAX_PINS = 100  # of each kind: failures, slow, stuck
MAX_HINTS = 8  # of each VM
MAX_DEVICES = 16
MAX_TEXT = 1000  # characters of a text that others had a hand in

One = TypeVar("One")


def document(snapshot: Snapshot) -> dict[str, Any]:
    """Times are seconds since 1970, sizes bytes. Failures, slow and stuck pins: newest first."""
    vms = sorted(snapshot.vms, key=lambda vm: (-_failed(snapshot, vm), vm.label))
    return {
        "format": FORMAT,
        "time_s": snapshot.time_s,
        "host": _host(snapshot),
        "vms": [_vm(snapshot, vm) for vm in vms[:MAX_VMS]],
        "failures": [_failure(one) for one in _newest(snapshot.failures)],
        "slow": [_slow(one) for one in _newest(snapshot.slow_pins)],
        "stuck": [_stuck(one) for one in snapshot.stuck[:MAX_PINS]],
        "more": {
            "vms": max(0, len(vms) - MAX_VMS),
            "failures": max(0, len(snapshot.failures) - MAX_PINS),
            "slow": max(0, len(snapshot.slow_pins) - MAX_PINS),
            "stuck": max(0, len(snapshot.stuck) - MAX_PINS),
        },
    }


def _newest(these: Sequence[One]) -> Sequence[One]:
    return these[: -MAX_PINS - 1 : -1]


def _text(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


# ---- the host -------------------------------------------------------------------------------


def _host(snapshot: Snapshot) -> dict[str, Any]:
    moved = snapshot.host_counters.get("pinwatch_host_migrations_total", {})
    by_result: dict[str, float] = {"ok": 0, "failed": 0}
    for (_, result), pages in moved.items():
        by_result[result] = by_result.get(result, 0) + pages
    return {
        "free": None if snapshot.free is None else _free(snapshot.free),
        "migrations": by_result,
        "compaction": {result: moved.get(("compaction", result), 0) for result in ("ok", "failed")},
        "cma_alloc_failures": _sum(snapshot.host_counters, "pinwatch_cma_alloc_failures_total"),
        "losses": {kind: count for kind, count in snapshot.losses.items() if count},
        "hooks_attached": sum(hook.attached for hook in snapshot.hooks),
        "hooks_off": [_hook(hook) for hook in snapshot.hooks if not hook.attached],
    }


def _free(free: FreeMemory) -> dict[str, int]:
    """As pinwatch_host_free_bytes has it, of all nodes; `pinnable_total` is what zones have that
    pins may use."""
    pinnable = [zone for zone in free.zones if zone.pinnable]
    movable = [zone for zone in free.zones if zone.name == MOVABLE]
    return {
        "pinnable": PAGE_BYTES * sum(max(0, zone.free - zone.free_cma) for zone in pinnable),
        "pinnable_total": PAGE_BYTES * sum(zone.managed - zone.cma for zone in pinnable),
        "movable": PAGE_BYTES * sum(zone.free - zone.free_cma for zone in movable),
        "cma": PAGE_BYTES * sum(zone.free_cma for zone in free.zones),
        "cma_total": PAGE_BYTES * sum(zone.cma for zone in free.zones),
    }


def _hook(hook: HookState) -> dict[str, str]:
    """`mode` off or waiting (for a module, which is no fault)."""
    return {
        "hook": hook.hook, "symbol": hook.symbol, "mode": hook.mode,
        "reason": _text(hook.reason), "sees": _text(hook.sees),
    }  # fmt: skip


# ---- VMs ------------------------------------------------------------------------------------


def _vm(snapshot: Snapshot, vm: Vm) -> dict[str, Any]:
    counters = snapshot.vm_counters.get(vm.label, {})
    seen = snapshot.outlooks.get(vm.label)
    hints = snapshot.hints.get(vm.label, ())[-MAX_HINTS:]
    devices = snapshot.devices.get(vm.label, ())
    return {
        "name": vm.label,
        "alias": _text(vm.alias),
        "uuid": vm.uuid,
        "platform": vm.platform,
        "pins": _sum(counters, "pinwatch_longterm_pins_total"),
        "failed": _failed(snapshot, vm),
        "slow": _sum(counters, "pinwatch_longterm_slow_pins_total"),
        "pinned_bytes": PAGE_BYTES * _sum(counters, "pinwatch_longterm_pinned_pages_total"),
        "migrated_bytes": PAGE_BYTES * _sum(counters, "pinwatch_pin_migrated_pages_total"),
        "unmoved_folios": _sum(counters, "pinwatch_pin_migration_failed_folios_total"),
        "forecast": None if seen is None else _forecast(vm, seen),
        "hints": [_text(words.hints_words((hint,))) for hint in hints],
        "devices": [_text(words.device_words(device)) for device in devices[:MAX_DEVICES]],
    }


def _failed(snapshot: Snapshot, vm: Vm) -> int:
    counters = snapshot.vm_counters.get(vm.label, {})
    return _sum(counters, "pinwatch_longterm_pin_failures_total")


def _sum(counters: Counters, metric: str) -> int:
    return int(sum(counters.get(metric, {}).values()))


def _forecast(vm: Vm, seen: Outlook) -> dict[str, Any]:
    told = outlook.explain(vm, seen.case, seen.forecast)
    place, forecast = seen.case.placement, seen.forecast
    return {
        "time_s": seen.time_s,
        "verdict": forecast.verdict,
        "risks": [str(risk) for risk in forecast.risks],
        "guest_bytes": place.guest_bytes,
        "resident_bytes": place.resident_bytes,
        "must_move_bytes": forecast.must_move.most,
        "must_allocate_bytes": forecast.must_allocate.most,
        "headroom_bytes": forecast.headroom_bytes,
        "error": place.error,
        "placement": [
            {"node": node, "zone": zone, "cma": cma, "size": size, "bytes": int(count)}
            for (node, zone, cma, size), count in gauges.memory(place).items()
        ],
        "headline": _text(told.headline),
        "paragraphs": [[label, _text(text)] for label, text in told.paragraphs],
    }


# ---- pins -----------------------------------------------------------------------------------


def _failure(one: Failure) -> dict[str, Any]:
    told = words.explain(one)
    return {
        "number": one.number,
        "time_s": one.time_s,
        "vm": one.vm.label,
        "source": one.pin.source,
        "bytes": one.pin.length_bytes,
        "errno": errno_name(one.pin.errno),
        "reason": one.reason,
        "holder": one.holder.holder,
        "holder_words": _text(words.holder_words(one.holder)),
        "confidence": one.holder.confidence,
        "headline": _text(told.headline),
        "summary": _text(told.summary),
    }


def _slow(one: SlowPin) -> dict[str, Any]:
    return {
        "number": one.number,
        "time_s": one.time_s,
        "vm": one.vm.label,
        "cause": one.cause,
        "cause_words": one.cause.words,
        "duration_s": one.pin.duration_ns / 1e9,
        "headline": _text(words.explain_slow(one).headline),
    }


def _stuck(one: StuckPin) -> dict[str, Any]:
    return {
        "vm": one.vm.label, "age_s": one.age_s, "livelock": one.livelock,
        "headline": _text(words.stuck_words(one)),
    }  # fmt: skip
