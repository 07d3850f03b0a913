"""Recordings: what entered the pipeline, kept so that it can be read again (docs/recording.md).

Pure: items and text; who opens files is host/recordings.py.
"""

from pinwatch.recording.items import (
    ClockSet,
    Counted,
    DevicesFound,
    HooksChanged,
    IoInFlight,
    Item,
    Looked,
    Lost,
    Named,
    Published,
    RawRecord,
    Rescanned,
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    VmmsConfigured,
)
from pinwatch.recording.lines import (
    FORMAT,
    Header,
    RecordingError,
    facts_from_json,
    header_line,
    item_line,
    read,
)

__all__ = [
    "FORMAT",
    "ClockSet",
    "Counted",
    "DevicesFound",
    "Header",
    "HooksChanged",
    "IoInFlight",
    "Item",
    "Looked",
    "Lost",
    "Named",
    "Published",
    "RawRecord",
    "RecordingError",
    "Rescanned",
    "Surveyed",
    "TaskEnded",
    "TaskGone",
    "VmFound",
    "VmmsConfigured",
    "facts_from_json",
    "header_line",
    "item_line",
    "read",
]
