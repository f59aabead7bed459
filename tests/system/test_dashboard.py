"""The dashboard asks for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from compose import ROOT, compose_file

DASHBOARD = json.loads((ROOT / "infra" / "grafana" / "freshet.json").read_text())
ROW = re.compile(r"^\| `(freshet_\w+)` \| (\w+) \|([^|]*)\|", re.M)
TABLE = {
    name: (kind, set(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in ROW.findall((ROOT / "infra" / "metrics.md").read_text())
}
WORDS = {"by", "sum", "min", "max", "rate", "increase", "histogram_quantile"}
GIVEN = {"application", "job", "le"}
"""Labels that every sample has, beside those of the table."""


def asked(node: object) -> list[str]:
    """Every expression in the dashboard."""
    if isinstance(node, dict):
        found = [node["expr"]] if "expr" in node else []
        return found + [expr for value in node.values() for expr in asked(value)]
    return [expr for value in node for expr in asked(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("expr", sorted(set(asked(DASHBOARD))))
def test_each_expression_is_of_a_metric_in_the_table(expr):
    bare = re.sub(r'"[^"]*"|\$\w+|\[[^]]*\]', "", expr)
    words = set(re.findall(r"[a-z_]\w*", bare)) - WORDS
    (name,) = (word for word in words if word.startswith("freshet_"))
    family = re.sub(r"_(bucket|sum|count)$", "", name)
    assert family in TABLE
    kind, labels = TABLE[family]
    assert (kind == "histogram") == (family != name)
    assert kind != "gauge" or not re.search(r"\b(rate|increase)\(", expr)
    assert words - {name} <= labels | GIVEN
    assert 'application="$application"' in expr


def test_what_one_wants_to_see_is_there():
    shown = " ".join(asked(DASHBOARD))
    for name in (
        *("freshet_events_read_total", "freshet_lag_events", "freshet_watermark_delay_seconds"),
        *("freshet_label_to_served_seconds", "freshet_batch_seconds", "freshet_store_seconds"),
        *("freshet_version", "freshet_task_served", "freshet_task_weight"),
    ):
        assert name in shown
    (drift,) = DASHBOARD["annotations"]["list"]
    assert "freshet_drift_events_total" in drift["expr"]


def test_grafana_finds_it_and_its_source():
    grafana = ROOT / "infra" / "grafana"
    (source,) = yaml.safe_load((grafana / "datasource.yml").read_text())["datasources"]
    assert set(re.findall(r'"uid": "(\w+)"', json.dumps(DASHBOARD["panels"]))) == {source["uid"]}
    services = compose_file({})["services"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert services[host]["ports"][0].endswith(f":{port}")
    mounted = dict(v.removesuffix(":ro").split(":") for v in services["grafana"]["volumes"])
    (provider,) = yaml.safe_load((grafana / "dashboards.yml").read_text())["providers"]
    assert mounted["./infra/grafana/freshet.json"].startswith(provider["options"]["path"] + "/")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounted["./infra/grafana/freshet.json"]
