"""Pins the example for a pipeline: its commands exist, and exit codes alone decide what it does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.conftest import ROOT
from tests.unit.test_docs import parse, read

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / "deploy" / "ci" / "rollout.sh"
WORKFLOW = yaml.safe_load(read("deploy/ci/github-rollout.yml"))
STUB = """#!/usr/bin/env bash
# Answers as the lines of `answers` say, one for each call: exit code and what is printed.
printf '%s\\n' "$*" >> calls
IFS=' ' read -r code text < <(sed -n "$(wc -l < calls)p" answers)
printf '%s\\n' "$text"
exit "$code"
"""
RUNNING, HOLDING, ROLLED_BACK, COMPLETE = (
    f'0 {{"phase": "{phase}"}}' for phase in ("running", "holding", "rolled_back", "complete")
)


def run(folder: Path, answers: list[str], *, longest: str = "1h") -> tuple[int, list[str]]:
    """Run the script with a `wicketgate` that gives these answers; return its exit code and the calls."""
    stub = folder / "wicketgate"
    stub.write_text(STUB)
    stub.chmod(0o755)
    (folder / "answers").write_text("\n".join(answers) + "\n")
    done = subprocess.run(
        [str(SCRIPT), "ttft_pipeline", "release", longest],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RETRY_S": "0"},
        capture_output=True,
        timeout=30,
    )
    return done.returncode, (folder / "calls").read_text().splitlines()


def commands(text: str) -> list[str]:
    """Return the commands of wicketgate in a script, with something in place of each variable."""
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
    found = re.findall(r"wicketgate ((?:\"[^\"]*\"|[^\"|&;\n])+)", "\n".join(lines))
    return [
        re.sub(r"\$\{?(\w+)\}?", lambda name: "1h" if "longest" in name[1].lower() else "x", each)
        for each in found
    ]


@pytest.mark.parametrize("command", commands(SCRIPT.read_text()))
def test_a_command_of_the_script_is_one_with_its_options(command: str) -> None:
    parse(shlex.split(command))


def test_the_commands_of_the_script_are_found() -> None:
    verbs = {" ".join(shlex.split(command)[:2]) for command in commands(SCRIPT.read_text())}

    assert verbs >= {"rollout start", "rollout status", "rollout promote", "rollback x", "rollout history"}


def test_a_rollout_that_goes_on_is_waited_for_until_it_is_complete(tmp_path: Path) -> None:
    code, calls = run(tmp_path, ["0", "0", RUNNING, "0", RUNNING, "0", COMPLETE, "0"])

    assert code == 0
    assert calls[1] == "rollout start ttft_pipeline --reason release"
    assert calls.count("rollout status ttft_pipeline --wait 1h") == 2
    assert not [call for call in calls if call.startswith("rollback")]


def test_a_start_that_is_refused_begins_nothing_and_takes_nothing_back(tmp_path: Path) -> None:
    code, calls = run(tmp_path, ["0", "4"])

    assert code == 4
    assert len(calls) == 2


def test_a_stage_that_holds_by_hand_is_promoted(tmp_path: Path) -> None:
    code, calls = run(tmp_path, ["0", "0", RUNNING, "8", HOLDING, "0", COMPLETE, "0"])

    assert code == 0
    assert "rollout promote ttft_pipeline --reason release" in calls


def test_a_stage_that_only_wants_more_requests_is_given_its_time(tmp_path: Path) -> None:
    holds = ["8", HOLDING, "4", HOLDING, "4", COMPLETE, COMPLETE]

    code, calls = run(tmp_path, ["0", "0", RUNNING, *holds, COMPLETE, "0"])

    assert code == 0
    assert not [call for call in calls if call.startswith("rollback")]


@pytest.mark.parametrize(
    ("answers", "longest"),
    [(["8", ROLLED_BACK, ROLLED_BACK], "1h"), (["8", HOLDING, "4"], "0m"), (["7"], "1h")],
    ids=["rolled-back", "without-evidence", "too-long"],
)
def test_a_stage_that_does_not_go_on_is_taken_back(answers: list[str], longest: str, tmp_path: Path) -> None:
    code, calls = run(tmp_path, ["0", "0", RUNNING, *answers, "0", "0"], longest=longest)

    assert code == 8
    assert calls[-2].startswith("rollback ttft_pipeline --reason release")


def test_the_workflow_runs_the_script_and_takes_back_what_did_not_finish() -> None:
    (job,) = WORKFLOW["jobs"].values()
    script, back = (step for step in job["steps"] if "run" in step)

    assert script["run"].split()[0] == str(SCRIPT.relative_to(ROOT))
    assert len(shlex.split(script["run"])) == 4
    assert back["if"] == "failure() || cancelled()"
    for command in commands(back["run"]):
        parse(shlex.split(command))


def test_the_workflow_puts_no_input_into_the_text_of_a_command() -> None:
    (job,) = WORKFLOW["jobs"].values()

    assert [step for step in job["steps"] if "${{" in step.get("run", "")] == []
    assert {"FEATURE", "REASON", "LONGEST"} <= set(job["env"])


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_no_fault_in_the_script() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stdout
