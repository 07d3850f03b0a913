"""pinwatch: which VM failed to pin memory for the long term, why, and what to do."""

__version__ = "0.1.0"
