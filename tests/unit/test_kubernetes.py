"""The DaemonSet: Kubernetes' own schema on it, and its agreement with the unit and the settings."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pinwatch.settings import DEFAULT_CONFIG, TABLE
from tests.lab import image, oci
from tests.lab.tools import tool
from tests.unit.test_systemd_unit import capabilities, value

HERE = image.CHECKOUT / "systemd/kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version())  # appArmorProfile came with 1.30
DEFAULTS = {row.name: str(row.default) for row in TABLE}
Document = dict[str, Any]


@pytest.fixture(scope="module")
def applied() -> list[Document]:
    """What `kubectl apply -k` would send: a real kubectl's word."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", HERE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture
def pod() -> Document:
    found: Document = oci.daemon_set()["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: Document) -> Document:
    (found,) = pod["containers"]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_field(version: str) -> None:
    kinds = []
    for document in oci.documents():
        kubernetes_validate.validate(document, version, strict=True)
        kinds.append(document["kind"])
    assert kinds == ["Namespace", "ServiceAccount", "PriorityClass", "DaemonSet"]


def test_what_kustomize_makes_of_it_is_accepted_too(applied: list[Document]) -> None:
    for document in applied:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_kustomize_puts_the_image_and_the_settings_in(applied: list[Document]) -> None:
    by_kind = {document["kind"]: document for document in applied}
    pod = by_kind["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example/pinwatch:{version()}"
    name = by_kind["ConfigMap"]["metadata"]["name"]
    assert name.startswith("pinwatch-config-")
    assert [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v] == [name]
    assert list(by_kind["ConfigMap"]["data"]) == [Path(DEFAULT_CONFIG).name]


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (image.CHECKOUT / "pyproject.toml").read_text(), re.M)
    assert found
    return found[1]


def test_the_version_is_the_same_everywhere(container: Document) -> None:
    assert container["image"] == f"pinwatch:{version()}"
    assert f"-t pinwatch:{version()} " in image.CONTAINERFILE.read_text()


# ---- agreement with the unit ---------------------------------------------------------------------


def test_it_has_the_capabilities_of_the_unit(container: Document) -> None:
    given = container["securityContext"]["capabilities"]
    assert given["drop"] == ["ALL"]
    # The API server refuses CAP_SYS_ADMIN, so spelled, beside allowPrivilegeEscalation: false.
    assert {f"CAP_{name}" for name in given["add"]} == capabilities()


def test_it_has_the_limits_of_the_unit(container: Document) -> None:
    limits = container["resources"]["limits"]
    assert limits["memory"] == value("MemoryMax") + "i"
    assert oci.quantity(limits["cpu"]) * 100 == int(value("CPUQuota").rstrip("%"))


def test_the_probes_wait_as_long_as_the_unit(container: Document) -> None:
    startup, alive = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == int(value("TimeoutStartSec"))
    assert alive["periodSeconds"] * alive["failureThreshold"] == int(value("WatchdogSec"))


def test_the_privileges_are_these_and_no_others(pod: Document, container: Document) -> None:
    security = container["securityContext"]
    assert (pod["hostPID"], pod["hostNetwork"], pod.get("hostIPC", False)) == (True, True, False)
    assert security["privileged"] is False
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    paths = {v["hostPath"]["path"]: v["name"] for v in pod["volumes"] if "hostPath" in v}
    writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert paths.keys() == {DEFAULTS["state_dir"], "/sys/fs/cgroup"}
    assert {path for path, name in paths.items() if name in writable} == {DEFAULTS["state_dir"]}


# ---- agreement with the settings -----------------------------------------------------------------


def test_directories_are_those_of_the_settings(container: Document) -> None:
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(DEFAULTS["socket"]).parent) in mounted
    assert str(Path(DEFAULT_CONFIG).parent) in mounted
    assert DEFAULTS["state_dir"] in mounted


def test_the_port_is_that_of_the_settings(container: Document) -> None:
    port = DEFAULTS["listen"].rpartition(":")[2]
    (listed,) = container["ports"]
    assert (str(listed["containerPort"]), str(listed["hostPort"])) == (port, port)
    assert container["args"][-1].endswith(f":{port}")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == listed["name"]


# ---- what the lab makes of it --------------------------------------------------------------------


def configured(pod: Document, *without: str) -> Document:
    return oci.configuration(
        pod, {"Entrypoint": ["pinwatch"], "Cmd": ["run"]}, rootfs="/image", cgroup="/pod",
        fields={"status.hostIP": "10.0.0.1"}, without=without,
    )  # fmt: skip


def test_the_lab_takes_privileges_from_the_manifest(pod: Document) -> None:
    config = configured(pod, "BPF")
    assert config["process"]["args"] == ["pinwatch", "run", "--listen", "[10.0.0.1]:19816"]
    assert config["process"]["noNewPrivileges"] is True
    assert set(config["process"]["capabilities"]["bounding"]) == capabilities() - {"CAP_BPF"}
    assert config["root"] == {"path": "/image", "readonly": True}
    kinds = {space["type"] for space in config["linux"]["namespaces"]}
    assert kinds == {"mount", "ipc", "cgroup"}


def test_the_lab_isolates_what_the_manifest_does_not_share(pod: Document) -> None:
    config = configured({**pod, "hostPID": False, "hostNetwork": False})
    kinds = {space["type"] for space in config["linux"]["namespaces"]}
    assert kinds == {"mount", "ipc", "cgroup", "pid", "network", "uts"}
