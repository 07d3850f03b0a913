"""What the names of VMs are made of: cgroup paths, sockets, libvirt's XML and which file of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch import attribute
from pinwatch.attribute import Programs, cgroups, libvirt, options
from pinwatch.model.vm import Evidence
from tests.unit.test_attribute import DOMAIN, NOVA, QEMU, UUID, from_libvirt, scope


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/machine.slice/x.scope\n", "/machine.slice/x.scope"),
        ("3:cpu:/\n2:memory:/firecracker/web\n1:name=systemd:/\n0::/\n", "/firecracker/web"),
        ("0::/a:b/c\n", "/a:b/c"),
        ("", ""),
        ("nonsense\n", ""),
    ],
)
def test_the_cgroup_that_says_most(text: str, path: str) -> None:
    assert cgroups.path_of(text) == path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/run/vms/web.sock", "web"), ("web.socket", "web"), ("/run/web/api.sock", "web"),
        ("/run/libvirt/ch/web-socket", "web"), ("/tmp/api.sock", ""), ("", ""), ("/", ""),
    ],
)  # fmt: skip
def test_names_of_sockets(path: str, name: str) -> None:
    assert options.socket_name(path) == name


STATUS = f"""<!-- WARNING: THIS IS AN AUTO-GENERATED FILE. -->
<domstatus state='running' reason='booted' pid='4242'>
  <monitor path='/var/lib/libvirt/qemu/domain-5-instance-0000002a/monitor.sock' type='unix'/>
  <domain type='kvm' id='5'>
    <name>instance-0000002a</name>
    <uuid>{UUID}</uuid>
    <metadata>
      <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
        <nova:name>web-01</nova:name>
        <nova:owner>
          <nova:user uuid="5a86b1db">ann</nova:user>
          <nova:project uuid="995b4947">shop</nova:project>
        </nova:owner>
      </nova:instance>
    </metadata>
    <devices><graphics type='vnc' passwd='hunter2'/></devices>
  </domain>
</domstatus>
"""


def test_a_state_with_novas_metadata() -> None:
    assert libvirt.parse(STATUS) == NOVA


def test_a_definition_with_a_title() -> None:
    text = f"<domain><name>web_01</name><uuid>{UUID}</uuid><title>Web</title></domain>"
    assert libvirt.parse(text) == replace(DOMAIN, tgid=0, title="Web")


@pytest.mark.parametrize(
    "text",
    [
        "", "<domain>", "<domain/>", "<domstatus pid='1'/>", "<network><name>x</name></network>",
        "<!DOCTYPE x><domain><name>x</name></domain>",
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><domain><name>&b;</name></domain>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>',
        "<domain><name>\ud800</name></domain>", "<domain><name>&#0;</name></domain>",
    ],
)  # fmt: skip
def test_what_is_no_domain(text: str) -> None:
    assert libvirt.parse(text) is None


@pytest.mark.parametrize("pid", ["", "x", "-1", "1e3", "9" * 5000, "\u0663"])
def test_a_pid_that_is_none(pid: str) -> None:
    domain = libvirt.parse(f"<domstatus pid='{pid}'><domain><name>x</name></domain></domstatus>")
    assert domain is not None
    assert domain.tgid == 0


def wanted(*cmdline: str, cgroup: str = "") -> list[str]:
    evidence = Evidence(tgid=1, cmdline=cmdline, cgroup=cgroup)
    return [f"{file.directory}/{file.name}" for file in attribute.wanted(evidence, Programs())]


def test_files_that_are_wanted() -> None:
    assert wanted(*from_libvirt("web_01")) == [
        "run/libvirt/qemu/web_01.xml", "etc/libvirt/qemu/web_01.xml",
    ]  # fmt: skip
    assert wanted("cloud-hypervisor", cgroup=scope("ch-1-web"))[0] == "run/libvirt/ch/web.xml"


def test_who_wants_no_file() -> None:
    assert not wanted(QEMU, "-name", "by-hand")
    assert not wanted("swtpm", cgroup=scope("qemu-1-web"))
    assert not wanted(*from_libvirt("x", lib="/home/ann/.config/libvirt/qemu/lib"))


@given(st.text())
def test_any_text_is_a_domain_or_none(text: str) -> None:
    libvirt.parse(text)
    libvirt.parse(f"<domain><name>{text}</name></domain>")
