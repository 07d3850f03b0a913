"""Times as people type them."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])(?:\s*ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse(text: str, now: datetime) -> datetime:
    """The last "03:12", "2h" or "2h ago", or a date with a time in ISO 8601, local unless it says
    otherwise. ValueError for anything else."""
    text = text.strip()
    if ago := _AGO.fullmatch(text):
        return now - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", text):
        hours, minutes, *rest = map(int, text.split(":"))
        at = now.replace(hour=hours, minute=minutes, second=sum(rest), microsecond=0)
        return at if at <= now else at - timedelta(days=1)
    return datetime.fromisoformat(text).astimezone()


def argument(text: str) -> float:
    """For argparse: seconds since 1970."""
    try:
        return parse(text, datetime.now().astimezone()).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time, such as 03:12, 2h, or 2026-11-23T03:12"
        ) from None
