"""The objects of the Prometheus operator: that they say what the plain files say, and that a real
Prometheus makes of them the labels that dashboards and alerts ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dashboards.generate import operator
from tests.lab import oci
from tests.unit.test_alerts import promtool

MONITOR = yaml.safe_load((operator.RULE.parent / "podmonitor.yaml").read_text())
META = {
    "__meta_kubernetes_pod_node_name": "node-1",
    # What the operator itself adds to every target.
    "job": "pinwatch/pinwatch", "namespace": "pinwatch", "pod": "pinwatch-x7k2p",
    "container": "pinwatch", "endpoint": "metrics",
}  # fmt: skip


def endpoint() -> dict[str, Any]:
    (found,) = MONITOR["spec"]["podMetricsEndpoints"]
    return dict(found)


def test_the_rule_has_the_groups_of_both_files() -> None:
    groups = yaml.safe_load(operator.RULE.read_text())["spec"]["groups"]
    assert groups == [
        group for path in operator.SOURCES for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert len(groups) > 2


def test_promtool_accepts_what_the_operator_would_write(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(yaml.safe_load(operator.RULE.read_text())["spec"]))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", rules)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_monitor_finds_the_pods_of_the_daemon_set() -> None:
    template = oci.daemon_set()["spec"]["template"]
    assert MONITOR["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert MONITOR["metadata"]["namespace"] == oci.daemon_set()["metadata"]["namespace"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert ports == [endpoint()["port"]]


def with_tls() -> dict[str, Any]:
    """The endpoint with what the comment has for TLS and passwords."""
    text = (operator.RULE.parent / "podmonitor.yaml").read_text()
    written = re.sub(r"^( {6})# (?=(?:scheme|tlsConfig|basicAuth|  \w+):)", r"\1", text, flags=re.M)
    (found,) = yaml.safe_load(written)["spec"]["podMetricsEndpoints"]
    return dict(found)


def test_what_tls_asks_for_is_what_prometheus_takes(tmp_path: Path) -> None:
    added = {key: value for key, value in with_tls().items() if key not in endpoint()}
    assert added.keys() == {"scheme", "tlsConfig", "basicAuth"}
    tls = added["tlsConfig"]
    assert tls.keys() == {"serverName", "ca", "cert", "keySecret"}
    secrets = (tls["ca"]["secret"], tls["cert"]["secret"], tls["keySecret"],
               *added["basicAuth"].values())  # fmt: skip
    assert {one["name"] for one in secrets} == {"pinwatch-scrape"}
    assert len({one["key"] for one in secrets}) == len(secrets)
    scrape = {  # what the operator makes of it, which reads the Secret
        "job_name": "pinwatch", "scheme": added["scheme"],
        "tls_config": {"server_name": tls["serverName"], "ca_file": "a", "cert_file": "b",
                       "key_file": "c"},
        "basic_auth": dict.fromkeys(added["basicAuth"], "-"),
    }  # fmt: skip
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    done = promtool("check", "config", "--syntax-only", config)
    assert done.returncode == 0, done.stdout + done.stderr


def snake(name: str) -> str:
    """The operator's names are Prometheus's in camel case."""
    return re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name)


def test_job_and_instance_are_as_dashboards_and_alerts_ask(tmp_path: Path) -> None:
    """And no label of the pod is left, which the next pod would not have."""
    job = "podMonitor/pinwatch/pinwatch/0"
    scrape = {
        "job_name": job,
        "static_configs": [{"targets": ["10.0.0.1:19816"], "labels": META}],
        "relabel_configs": [
            {snake(key): value for key, value in one.items()} for one in endpoint()["relabelings"]
        ],
    }
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    done = promtool("check", "service-discovery", "--timeout=1s", config, job)
    assert done.returncode == 0, done.stdout + done.stderr
    (target,) = yaml.safe_load(done.stdout)
    left = {name: n for name, n in target["labels"].items() if not name.startswith("__")}
    assert left == {"job": "pinwatch", "instance": "node-1"}
