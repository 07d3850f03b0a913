"""The kernels of the lab, in one table, and how each gets into the cache.

Takes a series ("6.1").  Gives a kernel that can boot: its image and its modules, from the cache
or, once, from the archive: as its package, or built from the distribution's source where no
package has what is needed.  Never takes another series without saying so, and never lets a kernel
that cannot be had pass for one that was tested: it raises LabError and names the suite.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab import build
from tests.lab.archive import cache_dir, locked, newest, open_suite
from tests.lab.errors import LabError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A suite that may have the series.  Its packages are named by a prefix and the release.

    The first pattern that anything matches counts; a later one is for when the suite has moved on.
    """

    suite: str
    releases: tuple[str, ...]
    packages: tuple[str, ...] = ("linux-image-",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """`config`: build it from the source that the origins have, for what no package offers."""

    name: str
    origins: tuple[Origin, ...]
    zone_movable: bool
    cma: bool
    config: build.Config | None = None

    @property
    def version(self) -> str:
        return self.name.partition("-")[0]

    def has(self, release: str) -> bool:
        return release.startswith(f"{self.version}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel in the cache: `root` holds `vmlinuz` and `lib/modules/<release>`."""

    series: Series
    release: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / "vmlinuz"

    @property
    def moved(self) -> bool:
        """The suite no longer had the series, and this is what it had instead."""
        return not self.series.has(self.release)


# The patterns leave no room for the cloud, rt, dbg and unsigned variants, which can do less.
SERIES = (
    Series(
        name="6.1",
        origins=(
            Origin(suite="bookworm-security", releases=(r"6\.1\.0-\d+-amd64",)),
            Origin(suite="bookworm", releases=(r"6\.1\.0-\d+-amd64",)),
        ),
        zone_movable=True,
        cma=False,
    ),
    Series(
        name="6.12",
        origins=(
            Origin(suite="trixie", releases=(r"6\.12\.\d+\+deb13-amd64",)),
            Origin(suite="bookworm-backports", releases=(r"6\.12\.\d+\+deb12-amd64",)),
        ),
        zone_movable=True,
        cma=False,
    ),
    Series(
        name="7.2",
        origins=(
            Origin(
                suite="sid",
                releases=(r"7\.2[.\d]*(\+deb\d+)?-amd64", r"\d+\.\d+[.\d]*(\+deb\d+)?-amd64"),
                packages=("linux-binary-", "linux-modules-"),
            ),
        ),
        zone_movable=True,
        cma=True,
    ),
)

# Minutes of compiling each, so only who names one gets one.  The package's name ends in the version
# alone: which release it is stands in the source.
BUILT = (
    Series(
        name="6.12-iommufd",
        origins=(
            Origin(suite="trixie", releases=(r"6\.12",), packages=("linux-source-",)),
            Origin(suite="bookworm-backports", releases=(r"6\.12",), packages=("linux-source-",)),
        ),
        zone_movable=True,
        cma=True,
        config=build.Config(name="iommufd.config"),
    ),
)


def series(name: str) -> Series:
    for known in (*SERIES, *BUILT):
        if known.name == name:
            return known
    names = ", ".join(known.name for known in (*SERIES, *BUILT))
    raise LabError(f"no kernel series {name}", hint=f"known: {names}")


def cached(wanted: Series, cache: Path | None = None) -> Kernel | None:
    """The newest kernel of the series that is here already.  Touches no network."""
    home = (cache or cache_dir()) / "kernels" / wanted.name
    end = re.escape(wanted.config.local_version) if wanted.config else ""
    release = newest((image.parent.name for image in home.glob("*/vmlinuz")), rf".*{end}")
    return Kernel(series=wanted, release=release, root=home / release) if release else None


def fetch(wanted: Series, *, say: Say = print, cache: Path | None = None) -> Kernel:
    """The cached kernel, or the newest one that the series' suites have."""
    cache = cache or cache_dir()
    if kernel := cached(wanted, cache):
        return kernel
    with locked(cache / f"fetch-{wanted.name}.lock"):
        return cached(wanted, cache) or _fetch(wanted, say, cache)


def _fetch(wanted: Series, say: Say, cache: Path) -> Kernel:
    home = cache / "kernels" / wanted.name
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home.parent) as directory:
        scratch = Path(directory)
        unpacked, release = _unpack(wanted, scratch, say, cache)
        root = scratch / "root"
        if wanted.config:
            release = _build(wanted, wanted.config, unpacked, scratch, say)
        else:
            _arrange(unpacked, root, release)
        subprocess.run(["depmod", "-b", str(root), release], check=True, capture_output=True)
        # One rename makes the kernel appear: a fetch that was interrupted leaves nothing behind.
        root.rename(home / release)
    return Kernel(series=wanted, release=release, root=home / release)


def _unpack(wanted: Series, scratch: Path, say: Say, cache: Path) -> tuple[Path, str]:
    """The packages of the first suite that has them, and their release."""
    troubles: list[str] = []
    for origin in wanted.origins:
        into = scratch / origin.suite
        try:
            release = _unpack_from(origin, wanted, into, say, cache)
        except LabError as trouble:
            troubles.append(str(trouble))
            continue
        if not wanted.config and not wanted.has(release):
            say(f"kernel {wanted.name}: {origin.suite} has moved on, took {release}")
        return into, release
    suites = ", ".join(dict.fromkeys(origin.suite for origin in wanted.origins))
    advice = "check the network and the machine's apt sources, then: python -m tests.lab --fetch"
    what = f"kernel {wanted.name} cannot be had from {suites}"
    raise LabError(what, hint="\n  ".join([*troubles, advice]))


def _unpack_from(origin: Origin, wanted: Series, into: Path, say: Say, cache: Path) -> str:
    say(f"kernel {wanted.name}: looking in {origin.suite}")
    with open_suite(origin.suite, cache) as suite:
        release = _newest_release(origin, suite.names(origin.packages[0]))
        packages = [prefix + release for prefix in origin.packages]
        say(f"kernel {wanted.name}: fetching {packages[0] if wanted.config else release}")
        for package in packages:
            suite.unpack(package, into)
    return release


def _build(wanted: Series, config: build.Config, unpacked: Path, scratch: Path, say: Say) -> str:
    [archive] = unpacked.glob("usr/src/linux-source-*.tar.xz")

    def prefixed(line: str) -> None:
        say(f"kernel {wanted.name}: {line}")

    release = build.build(archive, config, scratch, scratch / "root", say=prefixed)
    (scratch / "root/usr").symlink_to(".")
    return release


def _newest_release(origin: Origin, names: list[str]) -> str:
    prefix = origin.packages[0]
    for pattern in origin.releases:
        if package := newest(names, prefix + pattern):
            return package.removeprefix(prefix)
    raise LabError(f"{origin.suite} has no {prefix}{' or '.join(origin.releases)}")


def _arrange(unpacked: Path, root: Path, release: str) -> None:
    """Put image and modules where virtme-ng and depmod look, however the packages lay them out."""
    images = (f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz")
    modules = (f"lib/modules/{release}", f"usr/lib/modules/{release}")
    (root / "lib/modules").mkdir(parents=True)
    # kmod looks in /lib/modules or in /usr/lib/modules, as its builder chose.
    (root / "usr").symlink_to(".")
    shutil.move(_first(unpacked, images), root / "vmlinuz")
    shutil.move(_first(unpacked, modules), root / "lib/modules" / release)


def _first(base: Path, candidates: tuple[str, ...]) -> Path:
    for candidate in candidates:
        if (base / candidate).exists():
            return base / candidate
    raise LabError(f"the kernel packages hold none of {', '.join(candidates)}")
