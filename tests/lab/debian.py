"""A Debian on which Ansible installs pinwatch: a directory, in which a playbook runs by chroot.

Takes variables of the role; gives what Ansible says.  The Debian is this machine's own suite, made
by mmdebstrap; Ansible is its own, in a virtual environment that the cache keeps.  Never changes
this machine: what the playbook does stays in that directory.
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.archive import cache_dir, locked, own_suite
from tests.lab.image import CHECKOUT, debian, pip_settings, run

PLAYBOOK = CHECKOUT / "systemd/ansible/playbook.yml"
ANSIBLE = "ansible-core>=2.15"
PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "procps", "ca-certificates",
    "python3", "python3-apt",
)  # fmt: skip
_CERTIFICATES = "/run/pinwatch-lab.crt"

# A private mount namespace, so that nothing has to be unmounted.
_ENTER = """
set -e
root=$1; shift
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/run"
cp /etc/resolv.conf "$root/etc/resolv.conf"
while [ "$1" != -- ]; do
    mkdir -p "$root$(dirname "$2")"
    if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


@dataclass(frozen=True, slots=True)
class Play:
    """How a playbook went."""

    code: int
    text: str

    def count(self, what: str) -> int:
        """Of the recap: ok, changed, failed, skipped."""
        found = re.search(rf"^localhost .*\b{what}=(\d+)", self.text, re.MULTILINE)
        assert found, self.text
        return int(found[1])


class Debian:
    """Fresh, in `root`. `wheel` is pinwatch."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self._home = directory
        self.wheel = _wheel(directory)
        self.root.mkdir()
        run(["tar", "-C", str(self.root), "-xf", str(_base())], what="unpack a Debian")

    def play(self, *words: str, **variables: object) -> Play:
        """The shipped playbook, as an operator would run it, but on the host itself."""
        given = {"pinwatch_source": self.wheel, **variables}
        extra = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        ansible = _ansible()
        mounts = [CHECKOUT, CHECKOUT, ansible, ansible, self.wheel.parent, self.wheel.parent]
        for there, here in pip_settings(self._home, _CERTIFICATES).items():
            mounts += [here, Path(there)]
        command = [
            *("nice", "unshare", "--mount", "bash", "-c", _ENTER, "sh", str(self.root)),
            *map(str, mounts),
            *("--", str(ansible / "bin/python"), str(ansible / "bin/ansible-playbook")),
            *("--inventory", "localhost,", "--connection", "local", str(PLAYBOOK)),
            *("-e", "ansible_python_interpreter=/usr/bin/python3", *extra, *words),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return Play(done.returncode, done.stdout + done.stderr)

    def run(self, *words: str) -> str:
        """A command in it."""
        return run(["chroot", str(self.root), *words], what=shlex.join(words))


def _base() -> Path:
    tar = cache_dir() / f"debian-{own_suite()}.tar"
    with locked(cache_dir() / "debian.lock"):
        if not tar.exists():
            # Package lists as a host has them: apt takes a new directory without any for current.
            made = debian(own_suite(), tar.with_suffix(".new"), *PACKAGES, keep_lists=True)
            made.rename(tar)
    return tar


def _ansible() -> Path:
    """Not in the checkout's environment: that one has packages of this machine in it."""
    home = cache_dir() / "ansible"
    with locked(cache_dir() / "ansible.lock"):
        if not (home / "bin/ansible-playbook").exists():
            shutil.rmtree(home, ignore_errors=True)
            run(["/usr/bin/python3", "-m", "venv", str(home)], what="make an environment")
            run([str(home / "bin/pip"), "install", "--quiet", ANSIBLE], what="install Ansible")
    return home


def _wheel(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    run([*command, str(directory / "dist"), str(CHECKOUT)], what="make a wheel")
    (wheel,) = (directory / "dist").glob("*.whl")
    return wheel
