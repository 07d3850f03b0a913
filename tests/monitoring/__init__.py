"""Dashboards, rules and alerts against a real Prometheus and a real Alertmanager.

For a daemon that runs, in the lab or anywhere:

    with prometheus(home, scraping("http://127.0.0.1:19816")) as url:
        ...  # what fails; the recording rules need a minute
        left = unanswered(Prometheus(url, time.time()))

and for /metrics texts that were kept with their times, `holding(home, scrapes, now)`.
"""
