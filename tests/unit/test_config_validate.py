"""Pins `wicketgate validate`: what it prints where, its exit codes, and its JSON."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from wicketgate.cli.validate import run

if TYPE_CHECKING:
    from pathlib import Path

DOUBTFUL = """\
model: /m/tiny
phase4_rollout:
  ttft_pipeline: {enabled: true, rollout_percentage: 0.5, mode: staged}
"""


def validate(file: object, *, as_json: bool = False) -> int:
    return run(Namespace(file=file and str(file), json=as_json))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "runtime.yaml"
    path.write_text(DOUBTFUL)
    return path


def test_a_good_file_is_summed_up_and_its_doubts_go_to_stderr(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = validate(file)

    out, err = capsys.readouterr()
    assert code == 0
    assert out == (
        f"{file} is valid: tiny; adaptive_governor off, http2_transport off, "
        "ttft_pipeline staged up to 0.5 %, qos_monitoring off\n"
    )
    assert err.startswith(f"{file}:3:54  warning  ttft_pipeline.rollout_percentage is 0.5")


def test_the_kill_switch_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("phase4_rollout: {kill_switch: true}")

    validate(file)

    assert "no model; kill_switch: every feature is off" in capsys.readouterr().out


def test_a_bad_file_is_reported_with_exit_code_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("nam: x\n")

    code = validate(file)

    out, err = capsys.readouterr()
    assert code == 2
    assert out.startswith(f"{file}:1:1  error  unknown setting nam. Did you mean name?\n")
    assert err == ""


def test_json_is_one_object_for_a_good_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = validate(file, as_json=True)

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (answer["schema"], answer["ok"], answer["errors"]) == ("wicketgate.validate/1", True, [])
    assert answer["warnings"][0]["severity"] == "warning"


def test_json_is_one_object_for_a_bad_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("server: {backlog: 0}\n")

    code = validate(file, as_json=True)

    answer = json.loads(capsys.readouterr().out)
    assert code == 2
    assert answer == {
        "schema": "wicketgate.validate/1",
        "ok": False,
        "file": str(file),
        "errors": [
            {
                "file": str(file),
                "line": 1,
                "column": 19,
                "key": "server.backlog",
                "value": "0",
                "message": "server.backlog is 0; it must be between 1 and 65535.",
                "fix": "write a value between 1 and 65535",
                "severity": "error",
            }
        ],
        "warnings": [],
    }


def test_a_dash_reads_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("nam: x\n"))

    code = validate("-")

    assert code == 2
    assert capsys.readouterr().out.startswith("-:1:1  error")


def test_without_a_file_it_is_the_one_that_other_commands_use(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WICKETGATE_CONFIG", str(file))

    code = validate(None)

    assert code == 0
    assert capsys.readouterr().out.startswith(f"{file} is valid")
