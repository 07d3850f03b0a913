"""For all properties that are tested."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("pinwatch", deadline=None)  # a busy machine is no fault
settings.load_profile("pinwatch")
