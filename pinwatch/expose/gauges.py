"""Where VMs' memory lies, and what their next pin needs, as numbers.

Takes an Outlook, gives values by label values in the catalogue's order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pinwatch.expose.catalogue import (
    VM_ALLOCATE,
    VM_AT_RISK,
    VM_AVAILABLE,
    VM_ERROR,
    VM_HEADROOM,
    VM_LOOKED,
    VM_MEMORY,
    VM_MOVE,
    VM_RISK,
    MetricSpec,
)
from pinwatch.model.forecast import Outlook, Verdict
from pinwatch.model.placement import PageClass, Placement
from pinwatch.model.snapshot import Labels

Values = dict[Labels, float]


def of_vm(outlook: Outlook) -> Iterator[tuple[MetricSpec, Values]]:
    """The gauges of one VM; labels lack the VM."""
    forecast, place = outlook.forecast, outlook.case.placement
    yield VM_MEMORY, memory(place)
    yield VM_AT_RISK, {(): int(forecast.verdict is not Verdict.FINE)}
    against = (risk for risk in forecast.risks if risk.verdict is not Verdict.FINE)
    yield VM_RISK, {(str(risk), str(risk.verdict)): 1 for risk in against}
    yield VM_HEADROOM, {(): forecast.headroom_bytes}
    yield VM_MOVE, {(): forecast.must_move.most}
    yield VM_ALLOCATE, {(): forecast.must_allocate.most}
    yield VM_AVAILABLE, {(): forecast.available_bytes}
    yield VM_LOOKED, {(): outlook.time_s}
    yield VM_ERROR, {(): place.error}


def memory(place: Placement) -> Values:
    """Resident bytes by node, zone, CMA and size of the pages."""
    sums: defaultdict[Labels, float] = defaultdict(float)
    for portion in place.portions:
        sums[_where(portion.page)] += portion.size_bytes
    return dict(sums)


def _where(page: PageClass) -> Labels:
    node = "unknown" if page.node is None else str(page.node)
    return (node, page.zone or "unknown", str(page.cma), str(page.backing))
