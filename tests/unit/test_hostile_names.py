"""Names that try to break what shows them: from a command line to each view, read back there."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pinwatch import attribute
from pinwatch.abi import layout
from pinwatch.aggregate.ledger import Ledger
from pinwatch.attribute.names import MAX_NAME
from pinwatch.decode import text as decoded
from pinwatch.expose import as_json, words
from pinwatch.expose.exposition import OPENMETRICS, TEXT, Format, expose
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Evidence, LibvirtDomain, Vm
from pinwatch.pipeline import Pipeline
from pinwatch.recording import RawRecord
from tests.lab import tools
from tests.unit.make import FACTS, TASK, failure, pin, pin_record
from tests.unit.test_attribute import from_libvirt

QUOTES = ['"', "'", "\\", '\\"', '"} 1\npinwatch_x{vm="', "{}", "a,b=c", "# HELP x", "# EOF"]
INVISIBLE = ["\n", "\r\n", "\t", "\0", "\x7f", "\x85", "\u2028", "\u2029", "\u00ad", "\ufeff", " "]
TERMINAL = ["\x1b[2J\x1b[31m", "\x9b31m", "\x1b]0;title\x07", "\b\b\b", "\x0e"]
DIRECTION = ["\u202eexe.bew", "\u2066a\u2069", "\u200f", "web\u200d01"]
OURS = ["~host", "~other", "~unattributed", "~", "~~", "\\~host"]
LONG = ["a" * 65536, "\n" * 65536, "\u202e" * 200, "é" * 300]
NOT_UTF8 = [b"\xff\xfe".decode(errors="surrogateescape"), "\ud800", decoded(b"a\xffb")]
HOSTILE = [*QUOTES, *INVISIBLE, *TERMINAL, *DIRECTION, *OURS, *LONG, *NOT_UTF8]

names = st.sampled_from(HOSTILE) | st.text() | st.text(st.sampled_from("".join(HOSTILE[:40])))


def resolved(name: str) -> Vm:
    """A VM all of whose texts were chosen by somebody hostile."""
    domain = LibvirtDomain(name=name, uuid=name, tgid=4242, title=name, project=name)
    command = from_libvirt(name.replace(",", ",,"), "-uuid", name)
    vm = attribute.resolve(Evidence(tgid=4242, cmdline=command, domain=domain))
    if vm is None:  # an empty name is none
        assert not name
        return Vm(name="none")
    return vm


def exposed(encoder: Format, *vms: Vm) -> bytes:
    """A ledger with a failure of each VM."""
    ledger = Ledger()
    for number, vm in enumerate(vms):
        task = replace(TASK, key=TaskKey(number, number))
        ledger.name_task(task.key, vm)
        ledger.add_failure(failure(pin(task=task), vm=vm))
    return b"".join(expose(ledger.snapshot(), FACTS).encode(encoder))


def check_expositions(*vms: Vm) -> None:
    for families in (
        parse_text(exposed(TEXT, *vms).decode()),
        parse_openmetrics(exposed(OPENMETRICS, *vms).decode()),  # type: ignore[no-untyped-call]
    ):
        samples = [sample for family in families for sample in family.samples]
        info = [sample.labels for sample in samples if sample.name == "pinwatch_vm_info"]
        assert {one["vm"] for one in info} == {vm.name for vm in vms}
        for vm in vms:
            (one,) = (one for one in info if one["vm"] == vm.name)
            assert (one["uuid"], one["alias"], one["project"]) == (vm.uuid, vm.alias, vm.project)


def check_line(line: str) -> None:
    """One line that a terminal and a journal show as it is, and in the order it has."""
    assert line.isprintable(), ascii(line)
    assert "\n" not in line
    line.encode()


def check_words_and_json(vm: Vm) -> None:
    one = failure(pin(), vm=vm)
    for line in words.explain(one).text.splitlines():
        check_line(line)
    check_line(words.headline(one))
    text = json.dumps(as_json.failure(one))
    assert json.loads(text)["vm"]["name"] == vm.name
    text.encode()


@given(names)
def test_a_hostile_name_breaks_no_view(name: str) -> None:
    vm = resolved(name)
    assert vm.name
    assert not vm.name.startswith("~")
    for text in (vm.name, vm.uuid, vm.alias, vm.project, vm.vmm, vm.pod):
        assert text.isprintable()
        assert len(text) <= MAX_NAME + 1
    check_expositions(vm)
    check_words_and_json(vm)


@pytest.mark.parametrize("comm", [b"\x1b[2J\n<0>x", b"a\xffb\xc2\x9b31m", b"\xe2\x80\xaeexe"])
def test_a_hostile_process_name_breaks_no_view(comm: bytes) -> None:
    record = pin_record(b"qemu-kvm", b"-name", b"web")
    record.head.comm = comm
    record.failure.folios[0].migrate_op = 1
    window = record.windows[layout.Holder.DROP_CACHES]
    window.start_ns, window.tgid, window.parent_tgid = 9_900_000_000, 7, 5
    window.comm = window.parent_comm = comm
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(bytes(record)))
    (one,) = pipeline.snapshot().failures
    told = words.explain(one)
    assert "started by pid 5" in told.text
    for line in told.text.splitlines():
        check_line(line)


@pytest.mark.parametrize("name", OURS)
def test_nobody_is_taken_for_ours(name: str) -> None:
    vm = resolved(name)
    assert not words.headline(failure(vm=vm)).startswith("~")


def test_promtool_accepts_all_of_them_together() -> None:
    vms = {vm.name: vm for vm in map(resolved, HOSTILE)}
    check_expositions(*vms.values())
    done = subprocess.run(
        [tools.tool("promtool"), "check", "metrics"],
        input=exposed(TEXT, *vms.values()),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(vms) > 30
