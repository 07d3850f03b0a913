"""A recording without names, so that it can be sent to somebody else.

Every word that anybody may have chosen (names of VMs, words of command lines, comms, cgroups,
titles, projects) becomes another word, the same one wherever it appears, made with a key that is
thrown away. Words that the platforms and VMMs chose stay, because a VM is recognised by them: so a
redacted recording replays to the same VMs, under other names. It keeps by a list: what is not on it
goes.
"""

from __future__ import annotations

import ctypes as ct
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

from pinwatch.abi import layout
from pinwatch.model.vm import LibvirtDomain
from pinwatch.recording.items import DevicesFound, Item, RawRecord, VmFound, VmmsConfigured

# What attribute/ looks for, and the names of the programs that it knows.
_KEPT = frozenset((
    "qemu", "system", "x86", "64", "i386", "aarch64", "arm", "ppc64", "s390x", "riscv64", "kvm",
    "spice", "KVM", "CPU", "firecracker", "cloud", "hypervisor", "hyperviso", "static",
    "crosvm", "jailer", "name", "guest", "id", "uuid", "smbios", "type", "product",
    "manufacturer", "OpenStack", "Nova", "Foundation", "instance", "machine", "none", "api",
    "sock", "socket", "path", "platform", "run", "control", "clh", "ch", "fc", "vm", "vms",
    "vmm", "fd", "domain", "masterKey0", "libvirt", "embed", "var", "lib", "config", "cache",
    "user", "tmp", "root", "kubevirt", "private", "kata", "vc", "sbs", "overhead", "sandbox",
    "container", "slice", "scope", "kubepods", "besteffort", "burstable", "guaranteed", "cri",
    "containerd", "crio", "emulator", "vcpu",
))  # fmt: skip
_UUID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
_TOKEN = re.compile(
    r"(?P<kept>\\x[2-7][0-9a-f]"  # systemd's escape of what stands between words
    r"|pod(?=[0-9a-f][0-9a-f_-]{30,34}[0-9a-f])"
    r"|(?<=-)v\d(?=[\w.-]))"  # firecracker-v1.13
    rf"|(?P<uuid>(?i:{_UUID}))"
    r"|(?P<pci>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?![0-9a-z]))"
    r"|(?P<word>(?:[0-9A-Za-z\x80-\U0010ffff]|\\x[89a-f][0-9a-f])+)"  # also no UTF-8
)
_HEX = re.compile(r"(?=.*[0-9])[0-9a-f]{8,}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD_LENGTH = 6
_PIN_RECORDS = (layout.Record.PIN_FAILED, layout.Record.PIN_SLOW)
_RECORDS: dict[int, type[ct.Structure]] = {
    layout.Record.TASK: layout.TaskRecord,
    layout.Record.MODULE: layout.ModuleRecord,
    layout.Record.HINT: layout.HintRecord,
    **dict.fromkeys(_PIN_RECORDS, layout.PinRecord),
}


class Redactor:
    """Replaces names. Two of the same `key` (bytes, at most 64) replace alike."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._kept = set(_KEPT)

    # ---- items ------------------------------------------------------------------------------

    def item(self, item: Item) -> Item:
        """The same without names. Items of numbers alone are as they were."""
        match item:
            case RawRecord(data):
                return RawRecord(self._record(data))
            case VmFound():
                return replace(
                    item,
                    cmdline=tuple(map(self.text, item.cmdline)),
                    cgroup=self.text(item.cgroup),
                    domain=item.domain and self._domain(item.domain),
                )
            case DevicesFound(task, devices):
                renamed = (replace(one, address=self.text(one.address)) for one in devices)
                return DevicesFound(task, tuple(renamed))
            case VmmsConfigured(programs, pattern):
                self._kept |= set(re.findall(r"[0-9A-Za-z]+", pattern))  # options, not values
                return VmmsConfigured(tuple(map(self.text, programs)), pattern)
        return item

    def _domain(self, domain: LibvirtDomain) -> LibvirtDomain:
        return replace(
            domain,
            name=self.text(domain.name),
            uuid=self.text(domain.uuid),
            title=self.text(domain.title),
            project=self.text(domain.project),
        )

    # ---- records of the kernel side ---------------------------------------------------------

    def _record(self, data: bytes) -> bytes:
        """A record that nobody understands keeps its kind alone: it is a loss either way."""
        kind = _RECORDS.get(int.from_bytes(data[:4], "little"))
        if kind is None or len(data) < ct.sizeof(kind):
            return data[:4]
        record = kind.from_buffer_copy(data)
        self._comm(record.head, "comm")
        if isinstance(record, layout.TaskRecord | layout.PinRecord):
            self._cmdline(record.cmdline)
        if isinstance(record, layout.PinRecord):
            for window in record.windows:
                self._comm(window, "comm")
                self._comm(window, "parent_comm")
            for folio in record.failure.folios:
                self._comm(folio.culprit, "comm")
        return bytes(record)

    def _comm(self, of: ct.Structure, field: str) -> None:
        """Also what lies behind its end: the kernel does not always clear it."""
        setattr(of, field, self._bytes(getattr(of, field))[: layout.COMM_LEN - 1].ljust(16, b"\0"))

    def _cmdline(self, raw: layout.Cmdline) -> None:
        """Words are longer now, so the last may not fit."""
        text = self._bytes(bytes(raw.text)[: raw.len])[: layout.CMDLINE_LEN]
        raw.len = len(text)
        raw.text[:] = text.ljust(layout.CMDLINE_LEN, b"\0")

    def _bytes(self, raw: bytes) -> bytes:
        return self.text(raw.decode("utf-8", "backslashreplace")).encode()

    # ---- words ------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Word by word; what stands between words stays."""
        return _TOKEN.sub(self._token, text)

    def _token(self, match: re.Match[str]) -> str:
        replacing: dict[str | None, Callable[[str], str]] = {
            "kept": str,
            "uuid": self._uuid,
            "pci": self._pci,
            "word": self._word,
        }
        return replacing[match.lastgroup](match[0])

    def _word(self, word: str) -> str:
        if word in self._kept or (len(word) == 1 and word.isascii()):
            return word
        if _HEX.fullmatch(word):
            return self._hex(word, len(word))
        number = int.from_bytes(self._hash(word), "little")
        if word.isdecimal():
            return str(100_000 + number % 900_000)
        letters = (_LETTERS[number // 26**place % 26] for place in range(_WORD_LENGTH - 1))
        return "z" + "".join(letters)

    def _uuid(self, uuid: str) -> str:
        """systemd's slices spell it with underscores."""
        digits = iter(self._hex(re.sub("[-_]", "", uuid).lower(), 32))
        return "".join(c if c in "-_" else next(digits) for c in uuid)

    def _pci(self, address: str) -> str:
        """The domain may be left out when it is 0."""
        whole = address if address.count(":") > 1 else f"0000:{address}"
        digits = self._hex(whole, 8)
        domain = f"{digits[4:8]}:" if whole == address else ""
        return f"{domain}{digits[:2]}:{digits[2:4]}.0"

    def _hex(self, word: str, length: int) -> str:
        digits = self._hash(word).hex()
        return (digits * (length // len(digits) + 1))[:length]

    def _hash(self, word: str) -> bytes:
        return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), key=self._key).digest()
