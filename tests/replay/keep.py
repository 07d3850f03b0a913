"""`python -m tests.replay.keep [NAME=FILE ...]`: take recordings in, write what they replay to.

Without arguments, only the expected output is written anew; read the diff before committing it.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

from pinwatch.expose import as_json, exposition, words
from pinwatch.host import recordings
from pinwatch.model.failure import Failure
from pinwatch.playback import Playback

HERE = Path(__file__).parent

# Comments, zeroes, and the version of pinwatch.
_SAYS_NOTHING = re.compile(r"^#| 0\.0$|^pinwatch_build_info")


def replay(path: Path) -> dict[str, Any]:
    """What is said at the end of a recording: a line for each failure, the first of each reason in
    full, and the metrics."""
    playback = Playback(str(path))
    snapshot, facts = playback.end(), playback.header.facts
    assert not playback.damage
    text = exposition.text(snapshot, facts)
    metrics = [line for line in text.splitlines() if not _SAYS_NOTHING.search(line)]
    said: dict[str, Any] = {
        "failures": [_line(failure) for failure in snapshot.failures],
        "slow": [f"{slow.number}: {words.explain_slow(slow).headline}: {slow.cause}"
                 for slow in snapshot.slow_pins],
        "first_of_each_reason": {failure.reason: as_json.failure(failure)
                                 for failure in reversed(snapshot.failures)},
        "metrics": metrics,
    }  # fmt: skip
    result: dict[str, Any] = json.loads(json.dumps(said))
    return result


def _line(failure: Failure) -> str:
    who = ", ".join(f"{one.holder} ({one.confidence})" for one in (failure.holder, *failure.also))
    return f"{failure.number}: {words.headline(failure)}: {failure.reason}; {who}"


def main(arguments: list[str]) -> None:
    for argument in arguments:
        name, _, source = argument.partition("=")
        text = "".join(recordings.lines(source))
        data = gzip.compress(text.encode(), mtime=0)
        (HERE / f"{name}.jsonl.gz").write_bytes(data)
    for path in sorted(HERE.glob("*.jsonl.gz")):
        expected = HERE / path.name.replace(".jsonl.gz", ".expected.json")
        expected.write_text(json.dumps(replay(path), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
