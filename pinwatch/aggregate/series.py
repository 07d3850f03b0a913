"""The counters of one value of the `vm` label, and where they start."""

from __future__ import annotations

from collections.abc import Mapping

from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from pinwatch.model.snapshot import Counters, Exemplar, Labels, Mark, Marks

# Where user space does not get ENOMEM, normally.
_FIRST_ERRNO = {
    FailureReason.INTERRUPTED: "EINTR",
    FailureReason.VFIO_DMA_EXISTS: "EEXIST",
    FailureReason.VFIO_DMA_LIMIT: "ENOSPC",
    FailureReason.VFIO_IOVA_INVALID: "EINVAL",
    FailureReason.IOMMU_MAP_FAILED: "EINVAL",
    FailureReason.DEVICE_COHERENT_FAILED: "EBUSY",
    FailureReason.FSDAX_REFUSED: "EOPNOTSUPP",
    FailureReason.SPECIAL_PTE: "EEXIST",
    FailureReason.P2PDMA_REFUSED: "EREMOTEIO",
    **dict.fromkeys(
        (
            FailureReason.VMA_ABSENT,
            FailureReason.VMA_PERM,
            FailureReason.VMA_IO_PFNMAP,
            FailureReason.VMA_SECRETMEM,
            FailureReason.FILE_WRITE_REFUSED,
            FailureReason.FAULT_SIGBUS,
            FailureReason.HWPOISON,
        ),
        "EFAULT",
    ),
}


def usual_errno(reason: FailureReason) -> str:
    """What user space gets for a reason, normally."""
    return _FIRST_ERRNO.get(reason, "ENOMEM")


_BY_SOURCE: Mapping[Labels, float] = {(str(source),): 0 for source in PinSource}

# What increase() must see rise from 0. Not the failures by holder: nobody knows beforehand which of
# the sources, reasons and holders will meet, and all of them are thousands (docs/metrics.md).
FIRST: Counters = {
    "pinwatch_longterm_pins_total": _BY_SOURCE,
    "pinwatch_longterm_pinned_pages_total": _BY_SOURCE,
    "pinwatch_pin_migrated_pages_total": {(): 0},
    "pinwatch_vfio_map_failures_total": {
        (usual_errno(reason), str(reason)): 0 for reason in FailureReason
    },
}


class Series:
    """Counters that only grow. A mapping that was given out never changes: a change replaces it, so
    that snapshots share all that stands still, and idle VMs share their zeros."""

    def __init__(self) -> None:
        self.since_s = 0.0  # wall clock, of the first sample that had it; 0 before
        self._counters = dict(FIRST)
        self._marks: dict[str, Mapping[Labels, Mark]] = {}

    def add(
        self,
        metric: str,
        labels: Labels,
        amount: float,
        *,
        time_s: float = 0.0,
        event_id: str = "",
    ) -> None:
        """`labels` are the values without the VM, in the order of expose/catalogue.py. `time_s` is
        when what is counted happened, `event_id` which event it was."""
        if not amount:
            return
        values = self._counters.get(metric, {})
        key = tuple(map(str, labels))
        self._counters[metric] = {**values, key: values.get(key, 0) + amount}
        self._mark(metric, key, time_s, Exemplar(event_id, amount, time_s) if event_id else None)

    def _mark(self, metric: str, key: Labels, time_s: float, exemplar: Exemplar | None) -> None:
        """What was there at 0 counts since then; any other since it counted first."""
        marks = self._marks.get(metric, {})
        old = marks.get(key)
        if old is not None and exemplar is None:
            return
        since_s = (self.since_s or time_s) if key in FIRST.get(metric, ()) else time_s
        self._marks[metric] = {**marks, key: Mark(old.created_s if old else since_s, exemplar)}

    def frozen(self) -> Counters:
        """As they stand now."""
        return dict(self._counters)

    @property
    def marks(self) -> Marks:
        """Of those that have counted."""
        return dict(self._marks)
