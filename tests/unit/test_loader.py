"""What differs between compilers: bcc of each distribution that pinwatch runs on."""

from __future__ import annotations

import pytest

from pinwatch.host.loader import fentry_of


@pytest.mark.parametrize(
    ("distribution", "version", "where"),
    [
        ("Debian 12", "0.26.0", ""),
        ("the last without", "0.27.0", ""),
        ("the first with", "0.28.0", "vmlinux__"),
        ("Ubuntu 24.04", "0.29.1", "vmlinux__"),
        ("Debian 13", "0.31.0", "vmlinux__"),
        ("two digits", "1.0", "vmlinux__"),
    ],
)
def test_what_stands_before_a_function_of_the_kernel(
    distribution: str, version: str, where: str
) -> None:
    assert fentry_of(version) == where, distribution
