"""The one error of the lab: what is wrong, and what to do about it.

Takes two sentences, gives an exception.  Never decides an exit code: that is its caller's.
"""


class LabError(Exception):
    """The lab cannot do what was asked; `hint` says what would help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message
