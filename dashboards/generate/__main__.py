"""Write dashboards/dashboards_out/*.json and dashboards/kubernetes/prometheusrule.yaml."""

from dashboards.generate import texts

for path, content in texts().items():
    path.write_text(content)
