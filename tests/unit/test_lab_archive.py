"""The lab's packages: which source, which package.  No network: texts in, values out."""

from pathlib import Path

import pytest

from tests.lab import archive
from tests.lab.archive import Source
from tests.lab.errors import LabError

DATA = Path(__file__).parent.parent / "lab" / "data"
DEBIAN = Source(
    uri="http://archive.example/debian",
    suites=("bookworm", "bookworm-updates"),
    components=("main", "contrib"),
    signed_by="/usr/share/keyrings/archive.gpg",
)
SECURITY = Source(
    uri="http://security.example/debian-security",
    suites=("bookworm-security",),
    components=("main",),
)
VENDOR = Source(uri="http://tools.example/apt", suites=("tools-bookworm",), components=("main",))
SHOP = Source(uri="http://shop.example/apt", suites=("bookworm",), components=("stable",))


def test_deb822_keeps_enabled_binary_stanzas_and_key_files() -> None:
    text = (DATA / "machine.sources").read_text()
    assert list(archive.parse_deb822(text)) == [DEBIAN, SECURITY]


def test_one_line_entries_keep_their_keyring_and_drop_comments() -> None:
    found = list(archive.parse_one_line((DATA / "machine.list").read_text()))
    assert found == [
        VENDOR,
        Source(
            uri="http://archive.example/debian",
            suites=("bookworm",),
            components=("main", "universe"),
            signed_by="/etc/apt/keyrings/a.gpg",
        ),
    ]


def test_machine_sources_reads_what_apt_reads(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://tools.example/apt tools-bookworm main\n")
    (parts / "debian.sources").write_text((DATA / "machine.sources").read_text())
    (parts / "old.list.disabled").write_text("deb http://off.example/debian bookworm main\n")
    assert archive.machine_sources(tmp_path, environ={}) == [VENDOR, DEBIAN, SECURITY]


def test_a_source_given_by_the_environment_is_the_only_one(tmp_path: Path) -> None:
    given = {archive.SOURCE_VARIABLE: "deb http://tools.example/apt tools-bookworm main"}
    assert archive.machine_sources(tmp_path, environ=given) == [VENDOR]


@pytest.mark.parametrize(
    ("suite", "expected"),
    [("bookworm", DEBIAN), ("sid", DEBIAN), ("bookworm-security", SECURITY)],
)
def test_the_distributions_own_archive_has_its_other_suites(suite: str, expected: Source) -> None:
    assert archive.archive_of(suite, [VENDOR, SHOP, DEBIAN, SECURITY], "bookworm") is expected


def test_no_archive_names_the_suite_and_the_way_out() -> None:
    with pytest.raises(LabError, match=r"(?s)suite sid.*PINWATCH_LAB_SOURCE"):
        archive.archive_of("sid", [VENDOR, SHOP], "bookworm")


def test_a_source_line_is_one_that_apt_reads() -> None:
    line = DEBIAN.line("sid")
    keyring = "[signed-by=/usr/share/keyrings/archive.gpg]"
    assert line == f"deb {keyring} http://archive.example/debian sid main contrib\n"
    assert SECURITY.line("x") == "deb http://security.example/debian-security x main\n"


def test_newest_counts_and_does_not_spell() -> None:
    names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-7-amd64"]
    assert archive.newest(names, r"linux-image-6\.1\.0-\d+-amd64") == "linux-image-6.1.0-56-amd64"
    assert archive.newest(names, r"linux-image-5.*") is None
