"""Write dashboards/dashboards_out/*.json."""

from dashboards.generate import texts

for path, content in texts().items():
    path.write_text(content)
