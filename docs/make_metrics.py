"""Write docs/metrics.md and deploy/grafana-dashboard.json from the table of metrics: `python docs/make_metrics.py`."""

import json
from pathlib import Path
from typing import Any, Final

from trio_templar.http.metrics import FAMILIES, Family

PAGE: Final = Path(__file__).with_name("metrics.md")
DASHBOARD: Final = Path(__file__).parents[1] / "deploy" / "grafana-dashboard.json"
# Of a panel, in the units of Grafana's grid.
WIDTH: Final = 8
HEIGHT: Final = 7
COLUMNS: Final = 3

HEAD: Final = """\
# Metrics

<!-- Made by make_metrics.py from trio_templar/http/metrics.py: change it there. -->

`GET /metrics` on the [HTTP address](http.md) answers in the text format of Prometheus. It needs the token:

```yaml
scrape_configs:
  - job_name: trio_templar
    authorization: {credentials_file: /etc/prometheus/trio-templar-token}
    static_configs: [{targets: ["127.0.0.1:8002"]}]
```

Counters start at 0 with the process. The gateway keeps plain counts and reads them when Prometheus asks; it measures
nothing for a single delivery. [deploy/grafana-dashboard.json](../deploy/grafana-dashboard.json) shows all metrics:
import it in Grafana.

Look at these first: `trio_templar_lag_seconds` (above 0.1 s the process is at its limit), `trio_templar_memory_bytes`
(above `soft` publishers wait), `trio_templar_slow_closed_total`, and `trio_templar_bootstraps_total` by status.

| metric | type | labels | meaning |
|---|---|---|---|
"""

TAIL: Final = """
The answer also has `python_gc_objects_collected_total`, `python_gc_objects_uncollectable_total` and
`python_gc_collections_total`, by `generation`. They show what Python's garbage collector does.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(map(_row, FAMILIES)) + TAIL


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.full_name}` | {family.kind} | {labels} | {family.help} |\n"


def dashboard() -> str:
    """Return the dashboard."""
    shown = [family for family in FAMILIES if family.title]
    whole = {
        "title": "trio_templar",
        "uid": "trio-templar",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(number, family) for number, family in enumerate(shown)],
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(number: int, family: Family) -> dict[str, Any]:
    rate = family.kind == "counter"
    unit = ("Bps" if family.unit == "bytes" else "cps") if rate else family.unit
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": family.title + (" per second" if rate else ""),
        "description": family.help,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": ref_id, "expr": expression, "legendFormat": legend}
            for ref_id, (expression, legend) in zip("ABC", _queries(family), strict=False)
        ],
    }


def _queries(family: Family) -> list[tuple[str, str]]:
    """Return the expressions of a panel, and what their lines are called."""
    labels = ("instance", *family.labels)
    by = ", ".join(labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    if family.kind == "counter":
        return [(f"sum by ({by}) (rate({family.full_name}[$__rate_interval]))", legend)]
    if family.kind == "gauge":
        return [(f"sum by ({by}) ({family.full_name})", legend)]
    rates = f"sum by (le, {by}) (rate({family.full_name}_bucket[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rates})", f"p{100 * share:g} {legend}") for share in (0.5, 0.9, 0.99)]


if __name__ == "__main__":
    PAGE.write_text(page())
    DASHBOARD.parent.mkdir(exist_ok=True)
    DASHBOARD.write_text(dashboard())
    print(f"{PAGE} and {DASHBOARD} are written")
