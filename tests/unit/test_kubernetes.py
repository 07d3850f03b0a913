"""The DaemonSet: Kubernetes' own schema on it, and its agreement with the unit and the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pinwatch import serve
from pinwatch.settings import DEFAULT_CONFIG, TABLE
from tests.lab import image, oci
from tests.lab.tools import tool
from tests.unit.make import FACTS
from tests.unit.test_systemd_unit import capabilities, value

HERE = image.CHECKOUT / "systemd/kubernetes"
TLS = image.CHECKOUT / "systemd/kubernetes-tls"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
VERSIONS = ("1.30", kubernetes_validate.latest_version())  # appArmorProfile came with 1.30
DEFAULTS = {row.name: str(row.default) for row in TABLE}
Document = dict[str, Any]


@pytest.fixture(scope="module")
def applied() -> list[Document]:
    return kustomized(HERE)


def kustomized(directory: Path) -> list[Document]:
    """What `kubectl apply -k` would send: a real kubectl's word."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """The same of the variant for TLS. Debian's kubectl (1.20) knows two keys by older names."""
    top = tmp_path_factory.mktemp("kustomize")
    for directory in (HERE, TLS):
        shutil.copytree(directory, top / directory.name)
    path = top / TLS.name / "kustomization.yaml"
    said = yaml.safe_load(path.read_text())
    said["bases"] = said.pop("resources")
    said["patchesStrategicMerge"] = [patch["path"] for patch in said.pop("patches")]
    path.write_text(yaml.safe_dump(said))
    return kustomized(path.parent)


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
    written = {DEFAULTS["state_dir"], value("ReadWritePaths").removeprefix("-")}
    assert paths.keys() == {*written, "/sys/fs/cgroup"}
    assert {path for path, name in paths.items() if name in writable} == written


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
    for probe in PROBES:
        assert container[probe]["httpGet"]["port"] == listed["name"]


# ---- with TLS and passwords ----------------------------------------------------------------------


def only_container(documents: list[Document]) -> tuple[Document, Document]:
    (found,) = (one for one in documents if one["kind"] == "DaemonSet")
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def but(of: Document, *keys: str) -> Document:
    return {key: value for key, value in of.items() if key not in keys}


def test_with_tls_it_is_the_same_but_for_the_file_and_the_probes(
    applied: list[Document], with_tls: list[Document]
) -> None:
    for document in with_tls:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    (plain_pod, plain), (pod, container) = only_container(applied), only_container(with_tls)
    changed = {"args", "volumeMounts", *PROBES}
    assert but(container, *changed) == but(plain, *changed)
    assert container["args"][:3] == plain["args"]
    assert container["args"][3:] == ["--web-config-file", "/etc/pinwatch-web/web.yaml"]
    for probe in PROBES:
        assert but(container[probe], "exec") == but(plain[probe], "httpGet")
    assert [m for m in container["volumeMounts"] if m not in plain["volumeMounts"]] == [
        {"name": "web", "mountPath": "/etc/pinwatch-web", "readOnly": True},
        {"name": "probe", "mountPath": "/etc/pinwatch-probe", "readOnly": True},
    ]
    assert {v["name"] for v in pod["volumes"]} - {v["name"] for v in plain_pod["volumes"]} == {
        "web", "probe",
    }  # fmt: skip


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
def test_a_probe_asks_the_socket(
    with_tls: list[Document], tmp_path: Path, ready: bool, code: int
) -> None:
    """Each with its own command, the mounts aside."""
    path = tmp_path / "s"
    program = (TLS / "ask.py").read_text()
    assert DEFAULTS["socket"] in program
    (tmp_path / "ask.py").write_text(program.replace(DEFAULTS["socket"], str(path)))
    _, container = only_container(with_tls)
    commands = [container[probe]["exec"]["command"] for probe in PROBES]
    assert [command[-1] for command in commands] == ["/-/ready", "/-/ready", "/-/healthy"]
    run = [[w.replace("/etc/pinwatch-probe", str(tmp_path)) for w in words] for words in commands]
    assert all(
        subprocess.run(one, check=False, stderr=subprocess.DEVNULL).returncode == 1 for one in run
    )
    server = serve.bind_unix(str(path))
    serve.start(server, serve.App(latest=pytest.fail, facts=FACTS, ready=lambda: ready))
    done = [subprocess.run(one, check=False, capture_output=True, text=True) for one in run]
    server.shutdown()
    server.server_close()
    assert [one.returncode for one in done] == [code, code, 0]
    assert [one.stderr for one in done[:2]] == [
        "" if ready else "HTTP/1.0 503 Service Unavailable\n\n"
    ] * 2
    assert server.broken == 0


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
