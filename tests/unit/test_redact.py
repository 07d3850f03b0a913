"""A redacted recording has no name in it, and says the same of VMs under other names."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch import attribute, decode
from pinwatch.abi import layout
from pinwatch.commands import record
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Basis, Device, LibvirtDomain, Platform, Vm
from pinwatch.playback import Playback
from pinwatch.recording import DevicesFound, Header, Item, RawRecord, VmFound, VmmsConfigured
from pinwatch.recording.redact import Redactor
from tests.unit.make import FACTS, cmdline, pin_record
from tests.unit.test_attribute import ROWS, Row

REPLAY = Path(__file__).resolve().parents[1] / "replay"
ADDRESS = "0000:01:00.0"
REDACTOR = Redactor(b"key")
TASK = TaskKey(4242, 7_000_000_000)


def secret_record() -> layout.PinRecord:
    """Names in every place that a record has for one, and behind the ends of some."""
    made = pin_record(b"/opt/acme/qemu-kvm", b"-name", b"guest=payroll-01", b"password=hunter2")
    made.head.comm = b"acmecomm"
    made.windows[1].comm, made.windows[1].parent_comm = b"windowcomm", b"parentcomm"
    made.failure.folios[0].culprit.comm = b"culpritcomm"
    made.cmdline.text[3000:3006] = b"behind"
    return made


NAMES = ("payroll", "acme", "hunter2", "windowcomm", "parentcomm", "culpritcomm", "behind",
         "acmecomm", "Payroll", "finance", "01:00.0", "6f3a1c52", "0d4e-4c1b")  # fmt: skip
UUID = "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21"
ITEMS: tuple[Item, ...] = (
    VmmsConfigured(("acme-vmm",), r"--vm-name (\S+)"),
    VmFound(
        TASK,
        ("/opt/acme/qemu-kvm", "-name", "guest=payroll-01", "-uuid", UUID,
         "-device", f"vfio-pci,host={ADDRESS}"),
        r"/machine.slice/machine-qemu\x2d3\x2dpayroll\x2d01.scope",
        LibvirtDomain(name="payroll-01", uuid=UUID, tgid=4242, title="Payroll", project="finance"),
    ),
    DevicesFound(TASK, (Device(address=ADDRESS, driver="vfio-pci", iommu_group="7"),)),
    RawRecord(bytes(secret_record())),
    RawRecord(b"\x63\0\0\0acme of a kind that nobody knows"),
)  # fmt: skip


def everything(path: Path) -> str:
    """The text of a recording, and the bytes of its records."""
    rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    records = (base64.b64decode(row["record"]) for row in map(json.loads, rows) if "record" in row)
    return "\n".join((*rows, *(record.decode("latin-1") for record in records)))


def test_no_name_is_left_and_the_vm_is_the_same(tmp_path: Path) -> None:
    plain, redacted = tmp_path / "plain", tmp_path / "redacted"
    header = Header(facts=FACTS, wall_offset_ns=0)
    assert record.write(str(plain), header, ITEMS, redact=False) == 1
    before = everything(plain)
    assert all(name in before for name in NAMES)
    playback = Playback(str(plain))
    record.write(str(redacted), playback.header, playback.items, redact=True)
    after = everything(redacted)
    assert [name for name in NAMES if name in after] == []
    assert '"redacted":true' in after
    (real,) = Playback(str(plain)).end().failures
    (made,) = Playback(str(redacted)).end().failures
    assert made.vm.platform is real.vm.platform
    assert (made.reason, made.holder.holder) == (real.reason, real.holder.holder)
    assert len(made.devices) == len(real.devices) == 1


def test_a_real_recording(tmp_path: Path) -> None:
    source, redacted = REPLAY / "6.12-matrix.jsonl.gz", tmp_path / "redacted"
    playback = Playback(str(source))
    names = set().union(*map(names_of, Playback(str(source)).items))
    assert {"python", "modprobe", "tests.lab.inside.causes"} <= names
    record.write(str(redacted), playback.header, playback.items, redact=True)
    text = everything(redacted)
    # Other text of a recording has these words too: sources of pins, hooks' names, kinds.
    words = {word for name in names for word in re.findall(r"[A-Za-z]{5,}", name)}
    ours = set(re.findall(r"[A-Za-z]+", everything_but_names(source)))
    assert (words - ours).isdisjoint(re.findall(r"[A-Za-z]+", text))
    assert len(words - ours) > 20
    before, after = Playback(str(source)).end(), Playback(str(redacted)).end()
    assert [f.reason for f in after.failures] == [f.reason for f in before.failures]
    assert [f.holder.holder for f in after.failures] == [f.holder.holder for f in before.failures]


def names_of(item: Item) -> set[str]:
    """Every text in an item that somebody chose."""
    if isinstance(item, VmFound):
        return {*item.cmdline, item.cgroup}
    if not isinstance(item, RawRecord):
        return set()
    found = decode.decode(item.data, FACTS)
    comms = re.findall(r"comm='([^']+)'", repr(found))
    ours = layout.Head.from_buffer_copy(item.data).comm.decode()
    return {ours, *comms, *getattr(found, "cmdline", ())}


def everything_but_names(path: Path) -> str:
    """Samples, facts and module names: what redaction lets be."""
    playback = Playback(str(path))
    items = (item for item in playback.items if not names_of(item))
    modules = (repr(decode.decode(item.data, FACTS)) for item in Playback(str(path)).items
               if isinstance(item, RawRecord) and item.data[0] == layout.Record.MODULE)  # fmt: skip
    names = (re.search(r" name='(\w+)'", text) for text in modules)
    return f"{playback.header} {list(items)} {[m[1] for m in names if m]}"


ALONE = Row(
    what="KubeVirt, by a path alone",
    cmdline=("qemu-kvm", "-name", "shop_web", "-pidfile", "/var/run/kubevirt-private/x.pid"),
    vm=Vm(name="shop_web", platform=Platform.KUBEVIRT, basis=Basis.CMDLINE, vmm="qemu-kvm",
          alias="web", project="shop"),
)  # fmt: skip


@pytest.mark.parametrize("row", [*ROWS, ALONE], ids=lambda row: row.what)
def test_a_vm_of_each_platform_is_recognised_under_its_other_name(row: Row) -> None:
    given, say = row.evidence, REDACTOR.text
    evidence = replace(
        given,
        cmdline=tuple(map(say, given.cmdline)),
        cgroup=say(given.cgroup),
        domain=given.domain and replace(
            given.domain, name=say(given.domain.name), uuid=say(given.domain.uuid),
            title=say(given.domain.title), project=say(given.domain.project),
        ),
    )  # fmt: skip
    found = attribute.resolve(evidence)
    assert found == (row.vm and expected(row.vm))


def expected(vm: Vm) -> Vm:
    say = REDACTOR.text
    return replace(
        vm, name=say(vm.name), uuid=say(vm.uuid), alias=say(vm.alias), project=say(vm.project),
        vmm=say(vm.vmm), pod=say(vm.pod),
    )  # fmt: skip


def test_the_same_name_has_the_same_replacement_everywhere() -> None:
    name = REDACTOR.text("web-01")
    assert name != "web-01"
    assert name in REDACTOR.text("guest=web-01,x=1")
    assert name.replace("-", r"\x2d") in REDACTOR.text(r"machine-qemu\x2d3\x2dweb\x2d01.scope")
    uuid = REDACTOR.text(UUID)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid)
    pod = f"pod{UUID.replace('-', '_')}.slice"
    assert REDACTOR.text(pod) == f"pod{uuid.replace('-', '_')}.slice"
    assert re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.0", REDACTOR.text(ADDRESS))
    short = REDACTOR.text("host=01:00.0").removeprefix("host=")
    assert REDACTOR.text(ADDRESS).endswith(f":{short.partition('=')[2]}")
    assert Redactor(b"another").text("web-01") != name


@given(st.text(st.characters(codec="utf-8"), min_size=2))
def test_what_is_not_on_the_list_goes(text: str) -> None:
    words = re.findall(r"[0-9A-Za-z\x80-\U0010ffff]{2,}", text)
    redacted = re.findall(r"[0-9A-Za-z\x80-\U0010ffff]+", REDACTOR.text(text))
    assert not {w for w in words if w in redacted} - {"x86", "64"} - set(REDACTOR._kept)


def test_a_command_line_that_grows_is_cut() -> None:
    long = pin_record(b"qemu-kvm", *(b"ab" for _ in range(1300)))
    assert long.cmdline.len > layout.CMDLINE_LEN // 2
    item = REDACTOR.item(RawRecord(bytes(long)))
    assert isinstance(item, RawRecord)
    made = layout.PinRecord.from_buffer_copy(item.data)
    assert made.cmdline.len == layout.CMDLINE_LEN
    assert cmdline(b"qemu-kvm").text[:9] == made.cmdline.text[:9]
