"""The lab's kernels: what a suite's names become, and what is said when there are none."""

from pathlib import Path

import pytest

from tests.lab import build, kernels
from tests.lab.archive import Suite
from tests.lab.errors import LabError

NAMES = {
    "bookworm-security": [
        "linux-image-6.1.0-56-amd64-dbg",
        "linux-image-6.1.0-56-amd64-unsigned",
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-57-rt-amd64",
        "linux-image-6.1.0-57-arm64",
    ],
    "trixie": [
        "linux-image-6.12.9+deb13-amd64",
        "linux-image-6.12.107+deb13-amd64",
        "linux-source-6.12",
        "linux-source-6.12-rt",
    ],
    "sid": [
        "linux-binary-7.2.4+deb14-amd64",
        "linux-binary-7.2.13+deb14-amd64",
        "linux-binary-7.2.13+deb14-cloud-amd64",
        "linux-binary-7.3.1+deb14-amd64",
    ],
}


def quiet(line: str) -> None:
    """Nobody listens."""


class FakeSuites:
    """Suites whose packages lay image and modules out in the old way or in the new one."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names
        self.unpacked: list[str] = []

    def update(self) -> None:
        """As if it had been fetched."""

    def unpack(self, package: str, into: Path) -> None:
        self.unpacked.append(package)
        kind, release = package.split("-", 2)[1:]
        if kind == "source":
            (into / "usr/src").mkdir(parents=True)
            (into / "usr/src" / f"{package}.tar.xz").touch()
        image = {"image": f"boot/vmlinuz-{release}", "binary": f"usr/lib/modules/{release}/vmlinuz"}
        modules = {"image": f"lib/modules/{release}", "modules": f"usr/lib/modules/{release}"}
        if kind in modules:
            (into / modules[kind] / "kernel").mkdir(parents=True)
        if kind in image:
            (into / image[kind]).parent.mkdir(parents=True, exist_ok=True)
            (into / image[kind]).write_text(release)


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> FakeSuites:
    fake = FakeSuites(dict(NAMES))
    monkeypatch.setattr(Suite, "update", fake.update)
    monkeypatch.setattr(Suite, "names", lambda suite, prefix: fake.names.get(suite.name, []))
    monkeypatch.setattr(Suite, "unpack", fake.unpack)
    return fake


@pytest.mark.parametrize(
    ("name", "release"),
    [("6.1", "6.1.0-56-amd64"), ("6.12", "6.12.107+deb13-amd64"), ("7.2", "7.2.13+deb14-amd64")],
)
def test_the_newest_plain_kernel_of_the_series_is_laid_out(
    suites: FakeSuites, tmp_path: Path, name: str, release: str
) -> None:
    kernel = kernels.fetch(kernels.series(name), say=quiet, cache=tmp_path)
    assert (kernel.release, kernel.moved) == (release, False)
    assert kernel.image.read_text() == release
    assert (kernel.root / "lib/modules" / release / "modules.dep").exists()


def test_the_second_time_asks_no_suite(suites: FakeSuites, tmp_path: Path) -> None:
    first = kernels.fetch(kernels.series("6.1"), say=quiet, cache=tmp_path)
    suites.names.clear()
    assert kernels.fetch(kernels.series("6.1"), say=quiet, cache=tmp_path) == first
    assert suites.unpacked == ["linux-image-6.1.0-56-amd64"]


def test_a_suite_that_moved_on_is_taken_and_said(suites: FakeSuites, tmp_path: Path) -> None:
    suites.names["sid"] = ["linux-binary-7.3.1+deb14-amd64"]
    said: list[str] = []
    kernel = kernels.fetch(kernels.series("7.2"), say=said.append, cache=tmp_path)
    assert kernel.moved
    assert said[-1] == "kernel 7.2: sid has moved on, took 7.3.1+deb14-amd64"


def test_a_second_suite_is_asked_when_the_first_has_none(
    suites: FakeSuites, tmp_path: Path
) -> None:
    suites.names["trixie"] = []
    suites.names["bookworm-backports"] = ["linux-image-6.12.38+deb12-amd64"]
    kernel = kernels.fetch(kernels.series("6.12"), say=quiet, cache=tmp_path)
    assert kernel.release == "6.12.38+deb12-amd64"


def test_a_kernel_that_cannot_be_had_is_an_error_with_its_suites(
    suites: FakeSuites, tmp_path: Path
) -> None:
    suites.names.clear()
    with pytest.raises(LabError, match=r"6\.12 cannot be had from trixie, bookworm-backports"):
        kernels.fetch(kernels.series("6.12"), say=quiet, cache=tmp_path)
    assert kernels.cached(kernels.series("6.12"), tmp_path) is None


def test_an_unknown_series_names_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"known: 6\.1, 6\.12, 7\.2"):
        kernels.series("4.4")


class FakeBuild:
    """A build that takes no time, and says what it was made from."""

    def __init__(self) -> None:
        self.archives: list[str] = []

    def build(
        self, archive: Path, config: build.Config, scratch: Path, root: Path, *, say: kernels.Say
    ) -> str:
        self.archives.append(archive.name)
        release = f"6.12.107{config.local_version}"
        (root / "lib/modules" / release).mkdir(parents=True)
        (root / "vmlinuz").write_text(release)
        return release


@pytest.fixture
def fake_build(monkeypatch: pytest.MonkeyPatch) -> FakeBuild:
    fake = FakeBuild()
    monkeypatch.setattr(build, "build", fake.build)
    return fake


def test_a_built_kernel_comes_from_the_source_package(
    suites: FakeSuites, fake_build: FakeBuild, tmp_path: Path
) -> None:
    wanted = kernels.series("6.12-iommufd")
    said: list[str] = []
    first = kernels.fetch(wanted, say=said.append, cache=tmp_path)
    assert suites.unpacked == ["linux-source-6.12"]
    assert fake_build.archives == ["linux-source-6.12.tar.xz"]
    assert not first.moved
    assert not any("moved on" in line for line in said)
    assert (first.root / "lib/modules" / first.release / "modules.dep").exists()
    assert kernels.fetch(wanted, say=quiet, cache=tmp_path) == first
    assert len(fake_build.archives) == 1


def test_a_built_kernel_is_outdated_when_its_configuration_changes(
    suites: FakeSuites,
    fake_build: FakeBuild,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "_HERE", tmp_path)
    wanted = kernels.series("6.12-iommufd")
    (tmp_path / "iommufd.config").write_text("CONFIG_SMP=y\n")
    kernels.fetch(wanted, say=quiet, cache=tmp_path)
    (tmp_path / "iommufd.config").write_text("CONFIG_SMP=y\nCONFIG_NUMA=y\n")
    assert kernels.cached(wanted, tmp_path) is None


def test_nobody_builds_a_kernel_without_naming_it() -> None:
    assert all(known.config is None for known in kernels.SERIES)
    assert all(known.config for known in kernels.BUILT)


def test_an_option_that_was_dropped_stops_the_build() -> None:
    wanted = "# who pins\nCONFIG_VFIO=m\nCONFIG_IOMMUFD=m\nCONFIG_CMA_SIZE_MBYTES=0\n"
    got = "CONFIG_VFIO=y\n# CONFIG_IOMMUFD is not set\nCONFIG_CMA_SIZE_MBYTES=0\n"
    with pytest.raises(LabError, match=r"does not take CONFIG_VFIO=m, CONFIG_IOMMUFD=m\n"):
        build.check_taken(wanted, got)


def test_a_failed_build_shows_errors_and_not_files_of_that_name() -> None:
    log = "  CC lib/str_error_r.o\nmm/gup.c:7:1: error: no type\nmake: *** [Makefile:1] Error 2\n"
    assert build._errors(log).split("\n  ") == log.splitlines()[1:]
