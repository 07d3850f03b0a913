"""Programs of packages that must not be installed, because installing them starts a service,
or need not be.

Takes a program's name.  Gives its path in the cache, from this machine's own suite, fetched once.
Never runs it.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.archive import cache_dir, locked, open_suite, own_suite
from tests.lab.errors import LabError

# Where to look, in this order: Debian 13 has promtool in a package of its own.
PACKAGES = {
    "kubectl": ("kubernetes-client",),
    "prometheus": ("prometheus",),
    "promtool": ("prometheus", "promtool"),
    "prometheus-alertmanager": ("prometheus-alertmanager",),
    "amtool": ("prometheus-alertmanager",),
}


def tool(name: str, *, cache: Path | None = None) -> Path:
    """The program, ready to run.  Raises LabError when its package cannot be had."""
    for package in PACKAGES[name]:
        program = fetch(package, cache=cache) / "usr/bin" / name
        if program.exists():
            return program
    raise LabError(f"{' and '.join(PACKAGES[name])} of {own_suite()} have no {name}")


def fetch(package: str, *, cache: Path | None = None) -> Path:
    """The package's files, from the cache or, once, from the archive."""
    cache = cache or cache_dir()
    home = cache / "tools" / package
    with locked(cache / f"fetch-{package}.lock"):
        if not home.exists():
            home.parent.mkdir(exist_ok=True)
            with open_suite(own_suite(), cache) as suite, TemporaryDirectory(dir=cache) as scratch:
                suite.unpack(package, Path(scratch) / "unpacked")
                (Path(scratch) / "unpacked").rename(home)
    return home
