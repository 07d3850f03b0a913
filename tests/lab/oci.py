"""What a kubelet and a container runtime make of the DaemonSet: a configuration for an OCI runtime.

Takes the manifest and the image's configuration; gives what config.json of a bundle holds (OCI
runtime-spec).  What the manifest does not say is as containerd and CRI-O have it: their mounts, the
paths that they mask, a cgroup namespace of its own, and the system calls of their own profile.
Pure, but for reading the files that it is given.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MANIFEST = Path(__file__).resolve().parents[2] / "systemd/kubernetes/pinwatch.yaml"
# That of Podman and CRI-O, in the form that Docker has: rules that ask for capabilities.
SECCOMP = Path("/usr/share/containers/seccomp.json")

# Debian 12's is from when these asked for CAP_SYS_ADMIN. Profiles of today have them as well.
_NEWER = {"CAP_BPF": "bpf", "CAP_PERFMON": "perf_event_open"}

Document = dict[str, Any]

_UNITS = {"": 1, "m": 1e-3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NOTHING = ["nosuid", "noexec", "nodev"]


def documents(path: Path = MANIFEST) -> list[Document]:
    """The objects of a manifest."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def daemon_set(path: Path = MANIFEST) -> Document:
    (found,) = (one for one in documents(path) if one["kind"] == "DaemonSet")
    return found


def configuration(
    pod: Document,
    image: Document,
    *,
    rootfs: str,
    cgroup: str,
    fields: Mapping[str, str],
    without: Iterable[str] = (),
) -> Document:
    """Of the only container of a pod's spec. `fields`: what the downward API says, by field path.
    `without`: capabilities that are taken away from it."""
    (container,) = pod["containers"]
    security = container["securityContext"]
    held = [f"CAP_{n}" for n in security["capabilities"]["add"] if n not in set(without)]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": rootfs, "readonly": bool(security.get("readOnlyRootFilesystem"))},
        "process": _process(container, image, fields, held),
        "mounts": [*_default_mounts(pod), *_volume_mounts(pod, container)],
        "linux": {
            "namespaces": [{"type": name} for name in _namespaces(pod)],
            "cgroupsPath": cgroup,
            "resources": _resources(container["resources"]["limits"]),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "seccomp": seccomp(json.loads(SECCOMP.read_text()), held),
        },
    }


def _process(
    container: Document, image: Document, fields: Mapping[str, str], held: Sequence[str]
) -> Document:
    security = container["securityContext"]
    given = {
        one["name"]: one["value"]
        if "value" in one
        else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container.get("env", ())
    }
    words = [
        *(container.get("command") or image["Entrypoint"]),
        *(container.get("args") or image["Cmd"]),
    ]
    return {
        "args": [_expand(word, given) for word in words],
        "env": [*image.get("Env", ()), *(f"{name}={value}" for name, value in given.items())],
        "cwd": image.get("WorkingDir") or "/",
        "user": {"uid": security["runAsUser"], "gid": security["runAsGroup"]},
        "capabilities": {name: list(held) for name in ("bounding", "effective", "permitted")},
        "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
        "oomScoreAdj": 990,
    }


def _expand(word: str, given: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: given.get(found[1], found[0]), word)


def _namespaces(pod: Document) -> Iterator[str]:
    yield from ("mount", "ipc", "cgroup")
    if not pod.get("hostPID"):
        yield "pid"
    if not pod.get("hostNetwork"):
        yield from ("network", "uts")


def _default_mounts(pod: Document) -> Iterator[Document]:
    """Those of a runtime, without any that a volume stands in for."""
    taken = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    every = (
        _mount("/proc", "proc", _NOTHING),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
        _mount("/dev/shm", "tmpfs", [*_NOTHING, "mode=1777", "size=65536k"]),
        _mount("/sys", "sysfs", [*_NOTHING, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", [*_NOTHING, "relatime", "ro"]),
    )
    return (mount for mount in every if mount["destination"] not in taken)


def _volume_mounts(pod: Document, container: Document) -> Iterator[Document]:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume, path = volumes[mount["name"]], mount["mountPath"]
        access = "ro" if mount.get("readOnly") else "rw"
        if "hostPath" in volume:
            source = volume["hostPath"]["path"]
            yield _mount(path, "bind", ["rbind", "rprivate", access], source)
        else:  # an emptyDir; a ConfigMap that is not there is one to the container
            size = volume.get("emptyDir", {}).get("sizeLimit", "1Mi")
            yield _mount(path, "tmpfs", [f"size={int(quantity(size))}", access])


def _mount(path: str, kind: str, options: Sequence[str], source: str = "") -> Document:
    return {
        "destination": path, "type": kind, "source": source or kind, "options": list(options)
    }  # fmt: skip


def quantity(text: str) -> float:
    """A number of Kubernetes: "256Mi", "20m", "1"."""
    found = re.fullmatch(r"([\d.]+)(\w*)", text)
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def _resources(limits: Document) -> Document:
    period = 100_000
    return {
        "memory": {"limit": int(quantity(limits["memory"]))},
        "cpu": {"quota": int(quantity(limits["cpu"]) * period), "period": period},
        "devices": [{"allow": False, "access": "rwm"}],
    }


def seccomp(profile: Document, held: Sequence[str]) -> Document:
    """The rules that count for who has these capabilities, on x86-64."""
    newer = {_NEWER[name] for name in held if name in _NEWER}
    rules = [_rule(rule, newer) for rule in profile["syscalls"] if _applies(rule, set(held))]
    rules += [{"names": [name], "action": "SCMP_ACT_ALLOW"} for name in sorted(newer)]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }


def _applies(rule: Document, held: set[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        ("amd64" in includes.get("arches", ["amd64"]))
        and set(includes.get("caps", ())) <= held
        and not set(excludes.get("caps", ())) & held
    )


def _rule(rule: Document, without: set[str]) -> Document:
    names = [name for name in rule["names"] if name not in without]
    kept = {"names": names, "action": rule["action"]}
    if rule.get("args"):
        kept["args"] = rule["args"]
    if rule.get("errnoRet") is not None:
        kept["errnoRet"] = rule["errnoRet"]
    return kept
