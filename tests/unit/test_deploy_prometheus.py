"""Pins alerts and dashboard: they ask for what exists, say what to do, and fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tests.unit.test_docs import blocks, read
from tests.unit.test_docs_lists import page_of_metrics
from wicketgate.config import RuntimeConfig

if TYPE_CHECKING:
    from pathlib import Path

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load(read(PROMETHEUS / "alerts.yml"))["groups"][0]["rules"]
ALERT_TESTS = ("alerts_test.yml", "alerts_hours_test.yml")
NAMES = [rule["alert"] for rule in RULES]
DASHBOARD: dict[str, Any] = json.loads(read("deploy/grafana/wicketgate.json"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PROMETHEUS_OWN = {"up": {"job", "instance"}}
"""Metrics of Prometheus itself, with their labels."""
LONGEST_SUMMARY = 300
_WORDS = {"and", "or", "unless", "by", "on", "bool", "without", "ignoring"}


def labels_by_sample() -> dict[str, set[str]]:
    found: dict[str, set[str]] = dict(PROMETHEUS_OWN)
    for family in text_string_to_metric_families(page_of_metrics()):
        for sample in family.samples:
            found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return the metrics that an expression asks for, each with the labels that it matches."""
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    found = []
    for match in re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\(|\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', bare)):
        name, after, matchers = match.groups()
        if after != "(" and name not in _WORDS:
            found.append((name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or ""))))
    return found


def grouped(expression: str) -> set[str]:
    """Return the labels that an expression groups by."""
    lists = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {label.strip() for each in lists for label in each.split(",")}


def complaints(expression: str) -> list[str]:
    known = labels_by_sample()
    found = []
    asked: set[str] = set()
    for name, matched in selectors(expression):
        found += [name] * (name not in known)
        found += [f"{name}{{{label}}}" for label in matched - known.get(name, matched)]
        asked |= known.get(name, set())
    return found + [f"by ({label})" for label in grouped(expression) - asked]


def test_a_wrong_metric_a_wrong_label_and_a_wrong_group_are_found() -> None:
    wrong = 'sum by (colour) (rate(wicketgate_no_such_total{model="m"}[5m])) / error_rate{modle="m"}'

    assert complaints(wrong) == ["wicketgate_no_such_total", "error_rate{modle}", "by (colour)"]


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_asks_for_what_the_gateway_exports(rule: dict[str, Any]) -> None:
    assert complaints(rule["expr"]) == []


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_who_how_much_and_what_first_in_300_characters(rule: dict[str, Any]) -> None:
    summary = rule["annotations"]["summary"]

    assert len(summary) <= LONGEST_SUMMARY
    assert "{{ $labels." in summary
    assert re.search(r"First: wicketgate \w+", summary)
    assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_has_a_runbook_of_its_name_in_four_parts(rule: dict[str, Any]) -> None:
    path = rule["annotations"]["runbook"]

    assert path == f"runbooks/{rule['alert']}.md"
    assert re.findall(r"^##? (.+)$", read(path), re.MULTILINE) == [
        rule["alert"],
        "Meaning",
        "Impact",
        "Diagnosis",
        "Mitigation",
    ]


def test_every_runbook_of_an_alert_has_its_alert() -> None:
    pages = {page.stem for page in (ROOT / "runbooks").glob("*.md") if page.stem[0].isupper()}

    assert pages - {"README"} == set(NAMES)


def test_every_alert_is_tested_to_fire_and_to_be_quiet() -> None:
    groups = [group for file in ALERT_TESTS for group in yaml.safe_load(read(PROMETHEUS / file))["tests"]]
    cases = [case for group in groups for case in group["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}

    assert fires == quiet == set(NAMES)


def test_a_runbook_greps_for_metrics_that_exist() -> None:
    known = set(labels_by_sample())
    for page in sorted((ROOT / "runbooks").glob("*.md")):
        for block in blocks(page, "sh"):
            for pattern in re.findall(r"grep (?:-E )?'\^([^']+)'", block.text):
                names = _alternatives(pattern.partition("{")[0].partition(".*")[0])
                assert [name for name in names if name not in known] == [], page.name


def _alternatives(pattern: str) -> list[str]:
    match = re.search(r"\(([^)]*)\)", pattern)
    if match is None:
        return [pattern]
    return [pattern[: match.start()] + each + pattern[match.end() :] for each in match[1].split("|")]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_the_gateway_exports(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert complaints(target["expr"].replace("$__rate_interval", "1m")) == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_and_a_description_with_a_runbook(panel: dict[str, Any]) -> None:
    (runbook,) = re.findall(r"Runbook: (runbooks/\w+\.md)\.", panel["description"])

    assert (ROOT / runbook).is_file()
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_the_dashboards_annotations_and_variables_ask_for_what_exists() -> None:
    asked = [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    variables = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    asked += [re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)", query) for query in variables]

    assert [fault for expression in asked for fault in complaints(expression)] == []


def test_no_two_panels_lie_on_each_other_or_share_a_number() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_scrapes_the_admin_listener_and_loads_the_alerts() -> None:
    config = yaml.safe_load(read(PROMETHEUS / "prometheus.yml"))

    assert config["rule_files"] == ["alerts.yml"]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == [RuntimeConfig().admin.bind]
    assert 'job="wicketgate"' in RULES[0]["expr"]
    assert config["scrape_configs"][0]["job_name"] == "wicketgate"


@pytest.mark.needs("promtool")
def test_promtool_finds_no_fault_in_configuration_and_rules() -> None:
    done = _promtool("check", "config", "prometheus.yml", folder=PROMETHEUS)

    assert done.returncode == 0, done.stderr


@pytest.mark.needs("promtool")
def test_every_alert_fires_where_it_should_and_is_quiet_else() -> None:
    done = _promtool("test", "rules", *ALERT_TESTS, folder=PROMETHEUS)

    assert done.returncode == 0, done.stdout + done.stderr


def _promtool(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=60)
