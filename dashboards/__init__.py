"""Dashboards, alerts and rules; `generate/` writes the dashboards."""
