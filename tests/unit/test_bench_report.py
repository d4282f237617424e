"""Pins what a run says to people, to programs and in its files, and that bad runs say so."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench import report
from bench.machine import cpu
from bench.operations import Begin, Overload, Rollback, faults
from bench.slices import BLOCK, Arm, Slice
from bench.smoke import Result
from wicketgate.cli.bench import run
from wicketgate.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CROWD = Overload(offered=300, finished=96, refused=204, other=0, refusal_p50_s=0.001, refusal_p99_s=0.004)
UNDONE = (Rollback(effect_s=0.08, wall_s=0.1, flip_s=0.0002),) * 10


def a_slice(arm: Arm, order: int, *, concurrency: int = 8) -> Slice:
    """Return one of 512 tokens, served at half the raw speed."""
    return Slice(
        arm=arm,
        concurrency=concurrency,
        order=order,
        began_s=float(order),
        duration_s=1.0 if arm is Arm.RAW else 2.0,
        offered=8,
        ok=8,
        tokens=512,
        ttft_s=(0.05,) * 8 if arm is Arm.RAW else (0.06,) * 8,
        lateness_s=() if arm is Arm.RAW else (0.001,) * 8,
        gateway_cpu_s=0.0 if arm is Arm.RAW else 0.0512,
    )


@pytest.fixture
def result() -> Result:
    return Result(
        began_unix_s=1_700_000_000.0,
        wall_s=98.04,
        device="cpu",
        machine={
            "system": "Linux",
            "cpu": "A CPU",
            "cores": 2,
            "python": "3.11.7",
            "versions": {"mlx": "1", "mlx-lm": "2", "wicketgate": "0.1.0"},
            "commit": "abc",
        },
        load_before=0.5,
        load_after=1.5,
        slices=tuple(a_slice(arm, order) for order, arm in enumerate(BLOCK)),
        begin=Begin(start_to_ready_s=2.0, first_request_s=0.4, sequential_request_s=(0.3, 0.5, 0.2)),
        rollbacks=UNDONE,
        overload=CROWD,
        faults=(),
    )


def test_the_table_has_a_row_per_concurrency_under_its_headers(result: Result):
    (row,) = report.rows(result)

    assert len(row) == len(report.HEADERS)
    assert row == (
        "8",
        "512 (512 to 512)",
        "256 (256 to 256)",
        "0.50 (0.50 to 0.50)",
        "50 (50 to 50) ms",
        "+10 (+10 to +10) ms",
        "0.10 ms",
    )


def test_the_heading_says_on_what_machine_and_with_what(result: Result):
    text = "\n".join(report.heading(result, profile="smoke"))

    for part in (
        "Linux CPU",
        "A CPU, 2 cores, load average 0.5 before and 1.5",
        "mlx 1,",
        "at abc",
        "64 prompt",
    ):
        assert part in text


def test_the_sentences_name_each_figure_with_its_bar(result: Result):
    start, rollback, crowd = report.sentences(result)

    assert "Ready 2.0 s after its start (bar 15 s)" in start
    assert "0.30 s in the median, 0.50 s at most" in start
    assert "command to effect p50 80.0 ms, p99 80.0 ms (bar 100 ms)" in rollback
    assert "96 finished, 204 refused, p50 1.0 ms and p99 4.0 ms" in crowd


def test_what_was_not_measured_is_left_out_and_not_invented(result: Result):
    nothing = replace(CROWD, refused=0, refusal_p50_s=None, refusal_p99_s=None)

    without = replace(result, rollbacks=(), overload=nothing, slices=())

    assert len(report.sentences(without)) == 1
    assert report.rows(without) == []
    assert report.as_object(without, profile="smoke")["rollback"] == {"count": 0}


def test_the_object_is_ok_only_without_faults(result: Result):
    good = report.as_object(result, profile="smoke")
    bad = report.as_object(replace(result, faults=("the load client was late",)), profile="smoke")

    assert (good["ok"], good["invalid"]) == (True, [])
    assert (bad["ok"], bad["invalid"]) == (False, ["the load client was late"])
    assert good["throughput"][0]["ratio"] == {"median": 0.5, "low": 0.5, "high": 0.5, "count": 2}
    assert json.loads(json.dumps(good))["machine"]["cpu"] == "A CPU"


def test_the_files_hold_every_slice_and_the_facts(result: Result, tmp_path: Path):
    table, about = report.write(result, profile="smoke", folder=tmp_path / "new")

    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["slice"], row["tokens"]) for row in rows] == [
        ("raw", "0", "512"),
        ("served", "1", "512"),
        ("served", "2", "512"),
        ("raw", "3", "512"),
    ]
    assert rows[0]["lateness_p99_s"] == ""
    assert {row["run_id"] for row in rows} == {json.loads(about.read_text())["run_id"]}


def test_good_operations_have_no_faults():
    assert faults(UNDONE, CROWD) == []


def test_too_few_rollbacks_lost_requests_and_no_refusal_are_faults():
    assert faults(UNDONE[:3], replace(CROWD, refused=0, other=7)) == [
        "3 rollbacks are too few; at least 10 are needed",
        "7 of 300 requests at once were neither finished nor refused",
        "none of 300 requests at once was refused",
    ]


def test_the_processor_is_named_where_the_system_tells(tmp_path: Path):
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: Fast One\n\nmodel name\t: Fast One\n", encoding="utf-8")

    assert cpu(told) == "Fast One"
    assert cpu(tmp_path / "absent")


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="no profile named huge; there is smoke"):
        run(Namespace(profile="huge", out=None, json=False, color=None))
