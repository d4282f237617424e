"""Pins that lists in the pages are the code's: codes, exit codes, alerts, metrics, logs, macOS."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tests.fakes import request
from tests.unit.test_docs import quoted, read, rows
from tests.unit.test_metrics import FULL
from wicketgate import errors, platform, recorder
from wicketgate.api.fields import _FAULTS
from wicketgate.assigned import Assigned
from wicketgate.errors import ExitCode, WicketgateError
from wicketgate.metrics import Metrics
from wicketgate.recorder import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = sorted([*(ROOT / "wicketgate").rglob("*.py"), *(ROOT / "transport").glob("*.py")])
COMMAND_CODES = {
    "usage",
    "invalid_configuration",
    "no_runtime",
    "not_durable",
    "timed_out",
    "ledger_unusable",
    "measurement_failed",
}
"""Codes that no answer of the APIs carries."""
ELSEWHERE = {"slow_reader", "invalid_prompt", "server_error"}
"""Codes of the log alone, and OpenAI's own for a response that failed."""


def nodes() -> Iterator[ast.AST]:
    for source in SOURCES:
        yield from ast.walk(ast.parse(source.read_text(encoding="utf-8")))


def texts(node: ast.expr | None) -> set[str]:
    """Return the constant text of an argument, or both that it chooses between, where it is such."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=one, orelse=other):
            return texts(one) | texts(other)
        case _:
            return set()


def codes_in_the_code() -> set[str]:
    codes: set[str] = set()
    for node in nodes():
        match node:
            case ast.keyword(arg="code", value=value):
                codes |= texts(value)
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                codes |= texts(value)
    for _, code in _FAULTS.values():
        codes |= {code.format(number=number) for number in ("integer", "decimal")}
    return codes


def events_in_the_code() -> set[str]:
    levels = {"debug", "info", "warning", "error", "exception"}
    events = set()
    for node in nodes():
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=attr), args=[name, *_]
            ) if attr in levels:
                events |= texts(name)
    return events


def page_of_metrics() -> str:
    metrics = Metrics(CollectorRegistry(), models=("demo",), features=("ttft_pipeline",))
    metrics.read(lambda: FULL)
    return metrics.render().decode()


def metrics_in_the_code() -> dict[str, tuple[str, set[str]]]:
    """Return type and labels by name, as they stand on the page."""
    page = page_of_metrics()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            own = re.sub(r"_(bucket|sum|count)$", "", sample.name)
            name = sample.name if sample.name in types else own
            labels[name] |= set(sample.labels) - {"le", "quantile"}
    return {name: (kind, labels[name]) for name, kind in types.items()}


def test_troubleshooting_lists_every_code_of_an_answer() -> None:
    listed = {
        code for row in rows("docs/troubleshooting.md", "Codes in an answer") for code in quoted(row[0])
    }

    # `too_many_viewers` is written by the admin application itself.
    assert listed == codes_in_the_code() - COMMAND_CODES - ELSEWHERE | {"too_many_viewers"}


def test_troubleshooting_names_the_codes_of_commands_too() -> None:
    page = read("docs/troubleshooting.md")

    others = COMMAND_CODES | ELSEWHERE
    assert {code for code in others if f"`{code}`" not in page} == set()
    assert others - codes_in_the_code() == set()


def test_troubleshooting_gives_the_status_of_every_error_class() -> None:
    statuses = {
        code: int(row[1])
        for row in rows("docs/troubleshooting.md", "Codes in an answer")
        for code in quoted(row[0])
    }
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, WicketgateError)]

    wrong = [c.__name__ for c in classes if c.code in statuses and statuses[c.code] != c.status]

    assert wrong == []


def test_troubleshooting_lists_every_exit_code_in_order() -> None:
    listed = [(int(row[0]), row[1]) for row in rows("docs/troubleshooting.md", "Exit codes")]

    assert listed == [(int(code), code.name.lower()) for code in ExitCode]


def test_troubleshooting_and_runbooks_list_every_alert() -> None:
    rules = yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"][0]["rules"]
    alerts = [rule["alert"] for rule in rules]

    assert sorted(row[0] for row in rows("docs/troubleshooting.md", "Alerts")) == sorted(alerts)
    index = read("runbooks/README.md")
    assert [alert for alert in alerts if f"[{alert}]({alert}.md) | " not in index] == []


def test_the_page_of_metrics_lists_every_metric_with_type_and_labels() -> None:
    listed = {
        quoted(row[0])[0]: (row[1], set(filter(None, row[2].split(", "))))
        for heading in re.findall(r"^## (.+)$", read("docs/metrics.md"), re.MULTILINE)
        for row in rows("docs/metrics.md", heading)
    }

    assert listed == metrics_in_the_code()


def test_the_page_of_logs_lists_the_fields_of_a_request_in_order() -> None:
    record = Record(request=request(), assigned=Assigned(frozenset({"qos_monitoring"}), 1))

    fields = list(recorder.line(record, "ok", 200, "stop", record.request.arrived_s))

    assert [quoted(row[0])[0] for row in rows("docs/logs.md", "The line of a request")] == fields


def test_a_field_of_seconds_or_tokens_has_that_unit() -> None:
    units = {"_s": "seconds", "_tokens": "tokens"}

    for name, _, unit, _ in rows("docs/logs.md", "The line of a request"):
        ending = next((ending for ending in units if quoted(name)[0].endswith(ending)), None)
        assert unit == ("" if ending is None else units[ending]), name


def test_the_page_of_logs_lists_every_other_event() -> None:
    listed = {quoted(row[0])[0] for row in rows("docs/logs.md", "Other events")}

    assert listed == events_in_the_code() - {"request"}


def mentions_macos(function: ast.FunctionDef) -> bool:
    """Say whether a function answers differently on macOS, or where a path of Linux is missing."""
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    strings = {
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    asks = bool({"is_macos", "system", "SOCKET_PATH_BYTES"} & names)
    return (
        asks
        or "macOS" in (ast.get_source_segment(inspect.getsource(platform), function) or "")
        or any("/proc" in text or "/dev/fd" in text for text in strings)
    )


def test_every_branch_for_macos_is_listed_as_never_tried_there() -> None:
    functions = [
        node for node in ast.parse(inspect.getsource(platform)).body if isinstance(node, ast.FunctionDef)
    ]

    branches = {f.name for f in functions if mentions_macos(f) and not f.name.startswith("_")}

    listed = rows("docs/untested-on-macos.md", "Branches of `wicketgate/platform.py`")
    assert {name for row in listed for name in quoted(row[0])} == branches


@pytest.mark.parametrize("name", ["ttft_p95_ms", "wicketgate_requests_total"])
def test_the_list_of_metrics_is_read_from_the_page(name: str) -> None:
    assert name in metrics_in_the_code()
