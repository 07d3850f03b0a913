"""Packages of any suite, from the archive that the machine's own apt sources name and trust.

Takes a suite and a package name.  Gives the names that the suite has, and a package's files
unpacked into a directory.  Never installs anything, runs a package's scripts, touches the
machine's own apt state, or knows an archive's address by itself.
"""

import fcntl
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.errors import LabError

SOURCE_VARIABLE = "PINWATCH_LAB_SOURCE"
_ROLLING = {"oldstable", "stable", "testing", "unstable", "sid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One `deb` entry of the machine's apt sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self, suite: str) -> str:
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {suite} {' '.join(self.components)}\n"


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pinwatch-lab"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Queue up behind whoever holds it, in any process of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"lab: waiting for whoever holds {path.name}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def parse_one_line(text: str) -> Iterator[Source]:
    """Entries of a `sources.list`: `deb [options] uri suite component...`."""
    for line in text.splitlines():
        entry = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if entry:
            options, uri, suite, components = entry.groups(default="")
            key = re.search(r"signed-by=(\S+)", options)
            yield Source(
                uri=uri,
                suites=(suite,),
                components=tuple(components.split()),
                signed_by=key[1] if key else "",
            )


def parse_deb822(text: str) -> Iterator[Source]:
    """Entries of a `.sources` file: stanzas of `Field: value`."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
            for uri in fields["uris"].split():
                yield Source(
                    uri=uri,
                    suites=tuple(fields["suites"].split()),
                    components=tuple(fields.get("components", "").split()),
                    signed_by=_key_file(fields.get("signed-by", "")),
                )


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _key_file(value: str) -> str:
    # A stanza may carry the key itself; apt's own trusted keys have to do then.
    return value if value.startswith("/") else ""


def machine_sources(
    apt_dir: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ
) -> list[Source]:
    """What the machine's apt reads, or the one source line that the environment gives instead."""
    if given := environ.get(SOURCE_VARIABLE):
        return list(parse_one_line(given))
    found: list[Source] = []
    for path in [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            found += parse_deb822(path.read_text())
        elif path.suffix == ".list" and path.exists():
            found += parse_one_line(path.read_text())
    return found


def archive_of(suite: str, sources: Iterable[Source], codename: str) -> Source:
    """The distribution's own archive, or its security archive for a suite `*-security`."""
    security = suite.endswith("-security")
    for source in sources:
        if "main" in source.components and any(
            name.endswith("-security") if security else name in {codename, *_ROLLING}
            for name in source.suites
        ):
            return source
    raise LabError(
        f"no apt source of this machine can have the suite {suite}",
        hint=f"give one: {SOURCE_VARIABLE}='deb [signed-by=KEYRING] ADDRESS {suite} main'",
    )


def newest(names: Iterable[str], pattern: str) -> str | None:
    """The name that matches all of `pattern` and has the highest numbers in it."""
    return max((name for name in names if re.fullmatch(pattern, name)), key=_numbers, default=None)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def own_suite() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


class Suite:
    """One suite's package lists, in a directory of their own."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self._home = home

    def update(self) -> None:
        """Fetch the lists.  Raises LabError, naming the suite, when they cannot be had."""
        source = archive_of(self.name, machine_sources(), own_suite())
        for part in ("lists/partial", "cache/archives/partial"):
            (self._home / part).mkdir(parents=True)
        (self._home / "sources.list").write_text(source.line(self.name))
        (self._home / "status").touch()
        # Without an error mode apt takes a missing suite for success.
        self._apt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")

    def names(self, prefix: str) -> list[str]:
        return self._apt("apt-cache", "pkgnames", prefix).split()

    def unpack(self, package: str, into: Path) -> None:
        """Download a package and lay its files out under `into`."""
        with TemporaryDirectory(dir=self._home) as download:
            self._apt("apt-get", "download", package, cwd=Path(download))
            [deb] = Path(download).glob("*.deb")
            _run(["dpkg", "-x", str(deb), str(into)], what=f"unpack {package}")

    def _apt(self, tool: str, *args: str, cwd: Path | None = None) -> str:
        settings = {
            "Dir::State": self._home,
            "Dir::State::Lists": self._home / "lists",
            "Dir::State::status": self._home / "status",
            "Dir::Cache": self._home / "cache",
            "Dir::Etc::sourcelist": self._home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            # A mirror may be frozen at a date.  What it has is still checked against its signature.
            "Acquire::Check-Valid-Until": "false",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return _run([tool, *options, *args], what=f"{tool} {args[0]} ({self.name})", cwd=cwd)


@contextmanager
def open_suite(name: str, cache: Path) -> Iterator[Suite]:
    """The suite as it is now.  Its lists are large and soon old, so they go when this ends."""
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as home:
        suite = Suite(name, Path(home))
        suite.update()
        yield suite


def _run(command: Sequence[str], *, what: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in words if line.startswith("E: ")), words[-1])
        raise LabError(f"{what}: {first.removeprefix('E: ')}")
    return done.stdout
