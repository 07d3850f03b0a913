"""The rules and alerts as objects of the Prometheus operator, made of the plain files."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

DASHBOARDS = Path(__file__).resolve().parents[1]
SOURCES = (DASHBOARDS / "prometheus_rules.yaml", DASHBOARDS / "prometheus_alerts.yaml")
RULE = DASHBOARDS / "kubernetes/prometheusrule.yaml"

_HEAD = """\
# Written by `make dashboards` from prometheus_rules.yaml and prometheus_alerts.yaml: change those.
#
# The operator takes it if the Prometheus object's ruleSelector does: kube-prometheus-stack asks for
# the label `release`. The two addresses that are yours to put in are those of docs/dashboards.md.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pinwatch
  namespace: pinwatch
  labels:
    app.kubernetes.io/name: pinwatch
spec:
  groups:
"""


def rule() -> str:
    """A PrometheusRule with the groups of both files, as they stand there."""
    return _HEAD + "\n".join(indent(_groups(path.read_text()), "  ") for path in SOURCES)


def _groups(text: str) -> str:
    return text.partition("\ngroups:\n")[2]
