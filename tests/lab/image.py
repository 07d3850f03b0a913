"""The image of systemd/kubernetes/Containerfile, built by a real builder, on a Debian of this
machine's own archive.

Gives a directory with the image's files and its configuration, from the cache or built anew when
something of it changed.  The base image that the Containerfile names is made by mmdebstrap, since
there may be no registry here.  Never pulls or pushes an image.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.lab.archive import archive_of, cache_dir, locked, machine_sources, own_suite
from tests.lab.errors import LabError

CHECKOUT = Path(__file__).resolve().parents[2]
CONTAINERFILE = CHECKOUT / "systemd/kubernetes/Containerfile"
_TAG = "pinwatch:lab"


@dataclass(frozen=True, slots=True)
class Image:
    """`rootfs` has its files, `configuration` what an image's `config` holds (OCI image-spec)."""

    directory: Path

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    @property
    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return found


def fetch() -> Image:
    """The image of this checkout."""
    home = cache_dir() / "image"
    with locked(cache_dir() / "image.lock"):
        image = Image(home / _fingerprint())
        if not image.directory.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            _build(image)
    return image


def base_suite() -> str:
    """The Debian that the Containerfile stands on."""
    found = re.search(r"^ARG DEBIAN=(\w+)-slim$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert found
    return found[1]


def _fingerprint() -> str:
    """Of all that a build reads."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(f"{path.relative_to(CHECKOUT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield from (CONTAINERFILE, CHECKOUT / "pyproject.toml", CHECKOUT / "README.md")
    for part in ("bpf", "pinwatch"):
        yield from (p for p in (CHECKOUT / part).rglob("*.*") if p.suffix in (".py", ".c", ".h"))


def _build(image: Image) -> None:
    with TemporaryDirectory(dir=image.directory.parent) as scratch:
        builder = _Builder(Path(scratch))
        base = debian(base_suite(), Path(scratch) / "base.tar")
        builder.make_base(base, f"docker.io/library/debian:{base_suite()}-slim")
        builder.build()
        made = Path(scratch) / "made"
        made.mkdir()
        builder.export(Image(made))
        made.rename(image.directory)


def debian(suite: str, tar: Path, *packages: str, keep_lists: bool = False) -> Path:
    """A small Debian with these packages, as a tar file; with apt's lists, or none."""
    source = archive_of(suite, machine_sources(), own_suite())
    include = [f"--include={','.join(packages)}"] if packages else []
    include += ["--skip=cleanup/apt/lists"] if keep_lists else []
    kind = "--format=tar", "--variant=minbase", "--architectures=amd64"
    how = "--quiet", "--aptopt=Acquire::Retries 3"
    command = ["nice", "mmdebstrap", *how, *kind, *include, suite, str(tar)]
    run([*command, source.line(suite).strip()], what=f"make a {suite}")
    return tar


def pip_settings(directory: Path, certificates: str) -> dict[str, Path]:
    """Files by which a pip elsewhere trusts whom this machine's trusts, by the path that they must
    have there. `certificates`: such a path."""
    done = run([sys.executable, "-m", "pip", "config", "list"], what="ask pip")
    settings = dict(re.findall(r"^\w+\.([\w-]+)='(.*)'$", done, re.MULTILINE))
    bundle = os.environ.get("PIP_CERT") or settings.get("cert")
    kept = [f"{key} = {settings[key]}" for key in ("index-url",) if key in settings]
    kept += [f"cert = {certificates}"] if bundle else []
    (directory / "pip.conf").write_text("\n".join(["[global]", *kept]) + "\n")
    files = {"/etc/pip.conf": directory / "pip.conf"}
    return files | ({certificates: Path(bundle)} if bundle else {})


class _Builder:
    """buildah, with all that it stores in a directory that goes away."""

    def __init__(self, home: Path) -> None:
        self._home = home
        store = ("--root", str(home / "store"), "--runroot", str(home / "run"))
        self._command = ["nice", "buildah", "--storage-driver", "vfs", *store]

    def make_base(self, tar: Path, name: str) -> None:
        container = self._run("from", "scratch").strip()
        self._run("add", "--quiet", container, str(tar), "/")
        self._run("commit", "--quiet", container, name)
        self._run("rm", container)

    def build(self) -> None:
        # chroot: the machine may itself be a container, in which no other can be made.
        volumes = [
            f"--volume={here}:{there}:ro"
            for there, here in pip_settings(self._home, "/run/pinwatch-lab.crt").items()
        ]
        self._run("build", "--pull-never", "--isolation=chroot", *volumes,
                  "--file", str(CONTAINERFILE), "--tag", _TAG, str(CHECKOUT))  # fmt: skip

    def export(self, image: Image) -> None:
        container = self._run("from", "--pull-never", _TAG).strip()
        described = json.loads(self._run("inspect", container))
        image.directory.joinpath("config.json").write_text(
            json.dumps(described["OCIv1"]["config"], indent=1)
        )
        mounted = self._run("mount", container).strip()
        run(["cp", "-a", mounted, str(image.rootfs)], what="copy the image")
        self._run("umount", container)

    def _run(self, *arguments: str) -> str:
        return run([*self._command, *arguments], what=f"buildah {arguments[0]}")


def run(command: list[str], *, what: str) -> str:
    """What it prints; LabError with the end of its complaint when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise LabError(f"{what}: {(done.stderr + done.stdout)[-1500:].strip()}")
    return done.stdout
