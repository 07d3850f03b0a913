"""Dashboards, rules and alerts against a real Prometheus and a real Alertmanager.

`watching(home, target)` for a daemon that runs; for /metrics texts that were kept with their times,
`holding(home, scrapes, now)`.
"""
