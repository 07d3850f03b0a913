"""The errors that reach a user, and the exit code that each carries.

PinwatchError            something is wrong; one line what, one line what to do
├── UsageError           the command line or the configuration is wrong      (exit 2)
└── CannotRunError       this host cannot run it: kernel, permission, package (exit 3)
    └── NoDaemonError    nothing answers on the daemon's socket

Messages are lower case without a full stop and name the file or hook. Only cli.main() prints them.
"""

from __future__ import annotations


class PinwatchError(Exception):
    """What went wrong (`message`) and what the user can do about it (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PinwatchError):
    """Wrong command line or configuration."""

    exit_code = 2


class CannotRunError(PinwatchError):
    """This host cannot do what was asked."""

    exit_code = 3


class NoDaemonError(CannotRunError):
    """No daemon answers on its socket."""
