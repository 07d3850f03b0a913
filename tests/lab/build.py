"""A kernel built here, because no distribution's kernel has what it is for.

Takes the distribution's own kernel source (the tar file of a `linux-source-*` package) and a
configuration in tests/lab.  Gives what a kernel package would lay out: `vmlinuz` and
`lib/modules/<release>`.  Never goes on with a configuration that the kernel's Kconfig did not take
as it is written: an option that was dropped in silence would make its tests prove nothing.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

Say = Callable[[str], None]

_HERE = Path(__file__).resolve().parent
_SAY_EVERY_S = 60
# What the kernel's build calls that a machine without compilers lacks.
_TOOLS = ("gcc", "make", "flex", "bison", "bc", "pahole", "xz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration in tests/lab.  Everything that the file does not name is off."""

    name: str

    @property
    def path(self) -> Path:
        return _HERE / self.name

    @property
    def local_version(self) -> str:
        """The end of the release.  It changes with the file, so an outdated kernel is not taken."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:8]
        return f"-{self.path.stem}-{digest}"


def build(archive: Path, config: Config, scratch: Path, root: Path, *, say: Say) -> str:
    """Build in `scratch` and install under `root`.  The release."""
    _require_tools()
    say("unpacking the source")
    tree = scratch / "tree"
    tree.mkdir()
    _run(["tar", "-xf", str(archive), "-C", str(tree), "--strip-components=1"])
    _make(tree, "allnoconfig", f"KCONFIG_ALLCONFIG={config.path}")
    check_taken(config.path.read_text(), (tree / ".config").read_text())
    version = f"LOCALVERSION={config.local_version}"
    _compile(tree, version, say)
    (root / "lib").mkdir(parents=True)
    # Stripped of DWARF only: the types that pinwatch reads are in a section of their own.
    into = (f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1", "DEPMOD=true")
    _make(tree, "modules_install", version, *into)
    shutil.copy(tree / "arch/x86/boot/bzImage", root / "vmlinuz")
    release = (tree / "include/config/kernel.release").read_text().strip()
    for link in ("build", "source"):
        (root / "lib/modules" / release / link).unlink(missing_ok=True)
    return release


def check_taken(wanted: str, got: str) -> None:
    """Raise LabError with the lines of `wanted` that a .config has not got as they are."""
    lines = set(got.splitlines())
    asked = [line for line in wanted.splitlines() if line.startswith("CONFIG_")]
    if refused := [line for line in asked if line not in lines]:
        raise LabError(
            f"this kernel's Kconfig does not take {', '.join(refused)}",
            hint="a dependency is missing from tests/lab's configuration, or has a new name",
        )


def _require_tools() -> None:
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        raise LabError(
            f"a kernel cannot be built without {', '.join(missing)}", hint="run: make test-full"
        )


def _compile(tree: Path, version: str, say: Say) -> None:
    """Minutes of silence look like a hang, so what has been compiled is counted aloud."""
    began = time.monotonic()
    jobs = os.cpu_count() or 1
    say(f"compiling with {jobs} jobs, beside whatever else runs")
    log = tree / "lab-build.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["nice", "-n", "19", "make", f"-j{jobs}", version, "bzImage", "modules"],
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while _still_running(process):
                objects = len(re.findall(rb"^  CC ", log.read_bytes(), re.M))
                say(f"compiled {objects} files in {time.monotonic() - began:.0f} s")
        finally:
            process.terminate()
            process.wait()
    if process.returncode < 0:
        raise LabError(f"compiling was ended by signal {-process.returncode}", hint="run it again")
    if process.returncode:
        raise LabError("the kernel does not build", hint=_errors(log.read_text(errors="replace")))
    say(f"compiled in {time.monotonic() - began:.0f} s")


def _errors(log: str) -> str:
    """The first errors, and how it ended. Names of files have the word `error` in them too."""
    errors = re.findall(r"^.*(?: error: |: undefined reference|\*\*\* ).*$", log, re.M)
    return "\n  ".join(errors[:5] or log.splitlines()[-5:])


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_SAY_EVERY_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _make(tree: Path, *arguments: str) -> None:
    _run(["make", "-s", *arguments], cwd=tree)


def _run(command: list[str], *, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise LabError(f"{' '.join(command[:2])} failed", hint="\n  ".join(words))
