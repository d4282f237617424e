"""Pins what a pipeline relies on: a wait that ends once and says it once, and no answer for a wrong name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from wicketgate.config import load
from wicketgate.errors import ExitCode
from wicketgate.ledger import Ledger

CONFIG = """\
phase4_rollout:
  ttft_pipeline: {enabled: true, mode: staged}
  qos_monitoring: {enabled: true}
"""
FEATURE = "ttft_pipeline"


@pytest.fixture
def place(tmp_path):
    """A configuration without a gateway, in a folder of its own."""
    (tmp_path / "runtime.yaml").write_text(f"state_dir: state\n{CONFIG}")
    assert FEATURE in load(tmp_path / "runtime.yaml").rollout.features
    return tmp_path


def called(place, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a pipeline does."""
    command = [sys.executable, "-m", "wicketgate", *words, "--config", str(place / "runtime.yaml")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_status_that_waits_prints_one_object_at_its_end(place):
    called(place, "rollout", "start", FEATURE)

    done = called(place, "rollout", "status", FEATURE, "--wait", "600ms", "--json")

    told = json.loads(done.stdout)
    assert done.returncode == ExitCode.TIMED_OUT
    assert (told["ok"], told["outcome"]["outcome"]) == (False, "timed_out")
    assert [row["feature"] for row in told["features"]] == [FEATURE]


def test_a_status_that_waits_shows_one_screen_and_what_became_of_the_stage(place):
    called(place, "rollout", "start", FEATURE)
    called(place, "rollback", FEATURE, "--reason", "INC-42")

    done = called(place, "rollout", "status", FEATURE, "--wait")

    assert done.returncode == ExitCode.CHECK_FAILED
    assert done.stdout.count("rolled back  revision 2") == 1
    assert ": rolled back: by " in done.stdout.splitlines()[-1]
    assert done.stdout.endswith(": INC-42\n")


def test_a_history_of_a_name_that_nothing_has_is_refused_after_a_kill_too(place):
    called(place, "rollout", "kill")

    done = called(place, "rollout", "history", "ttft_pipelin")

    assert done.returncode == ExitCode.USAGE
    assert "Did you mean ttft_pipeline?" in done.stderr
    assert "kill_switch" not in done.stderr


def test_a_rollback_while_the_file_is_broken_reaches_the_ledger_that_the_file_names(place):
    called(place, "rollout", "start", FEATURE)
    with (place / "runtime.yaml").open("a") as file:
        file.write("  adaptive_governor: [\n")

    done = called(place, "rollback", FEATURE)

    assert done.returncode == ExitCode.DONE
    assert Ledger(place / "state" / "ledger.db").read().rows[FEATURE].document["phase"] == "rolled_back"
