"""`python -m tests.replay.compare RECORDING METRICS`: does a recording replay to what its daemon
exported? METRICS is the text of a scrape; the moment of the recording that it shows is found by
pinwatch_sample_timestamp_seconds. Exit code 0: byte for byte, but for what the daemon adds of its
own process.
"""

from __future__ import annotations

import re
import sys
from difflib import unified_diff
from pathlib import Path

from pinwatch.expose import exposition
from pinwatch.expose.catalogue import OF_THE_DAEMON
from pinwatch.playback import Playback

_SAMPLED = re.compile(r"^pinwatch_sample_timestamp_seconds (\S+)$", re.MULTILINE)
_OWN = "|".join(("process_", "python_", *(spec.name for spec in OF_THE_DAEMON)))
_OF_THE_PROCESS = re.compile(rf"(?:# (?:HELP|TYPE) )?(?:{_OWN})")


def differences(recording: str, metrics: str) -> list[str]:
    """Lines of a diff; none when both say the same."""
    sampled = _SAMPLED.search(metrics)
    if sampled is None:
        return ["these are no metrics of pinwatch"]
    scraped = [line for line in metrics.splitlines() if not _OF_THE_PROCESS.match(line)]
    playback = Playback(recording)
    found: list[str] = ["the recording has no snapshot of that time"]
    for snapshot in playback.moments():
        if snapshot.time_s != float(sampled[1]):
            continue
        replayed = exposition.text(snapshot, playback.header.facts).splitlines()
        found = list(unified_diff(scraped, replayed, "scraped", "replayed", lineterm="", n=0))
        if not found:
            break
    return found


def main(arguments: list[str]) -> int:
    recording, metrics = arguments
    different = differences(recording, Path(metrics).read_text())
    print("\n".join(different) or "the same")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
