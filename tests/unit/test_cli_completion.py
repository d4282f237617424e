"""Pins what the tabulator offers: commands, options, their values, features and stages."""

from __future__ import annotations

import pytest

from rollout.spec import DEFAULT_STAGES
from wicketgate.cli.commands import COMMANDS
from wicketgate.cli.completion import SCRIPTS, STAGES, complete
from wicketgate.cli.main import run
from wicketgate.errors import ExitCode
from wicketgate.ledger import Ledger

FEATURES = ["adaptive_governor", "http2_transport", "qos_monitoring", "ttft_pipeline"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, and a working folder without a configuration."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WICKETGATE_CONFIG", raising=False)
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], sorted({name.split()[0] for name in COMMANDS})),
        ([], sorted({name.split()[0] for name in COMMANDS})),
        (["roll"], ["rollback", "rollout"]),
        (["--v"], ["--version"]),
        (["rollout", "s"], ["simulate", "start", "status", "stop"]),
        (["rollout", "pause", ""], FEATURES),
        (["rollback", "tt"], ["ttft_pipeline"]),
        (["rollout", "start", "ttft_pipeline", "--at", ""], ["canary", "early", "full", "mid"]),
        (["rollout", "start", "--at", "early", "q"], ["qos_monitoring"]),
        (["rollout", "start", "--reason", "why", "q"], ["qos_monitoring"]),
        (["rollout", "start", "ttft_pipeline", ""], []),
        (["rollout", "start", "ttft_pipeline", "--w"], ["--wait"]),
        (["rollout", "status", "--watch", "--w"], ["--wait"]),
        (["rollout", "export", "--format", ""], ["flagd", "json"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["cache", "clear", "--tier", "d"], ["disk"]),
        (["status", "--reason", ""], []),
        (["nothing", "of", "that"], []),
        (["rollout", "nothing", ""], []),
    ],
)
def test_what_can_stand_there_is_offered(words, offered):
    assert complete(words) == offered


def test_features_of_the_ledger_and_stages_of_the_configuration_are_offered(home):
    (home / "runtime.yaml").write_text(
        "state_dir: kept\nphase4_rollout:\n  guard: {direct: alert}\n  stages: [{name: one, percentage: 1}]\n"
    )
    Ledger(home / "kept" / "ledger.db").change(
        ["old_one"], lambda *_: {"phase": "off"}, action="stop", actor="a", reason=""
    )

    assert complete(["rollback", ""]) == sorted([*FEATURES, "old_one"])
    assert complete(["rollout", "start", "ttft_pipeline", "--at", ""]) == ["one"]


def test_the_ledger_of_the_folder_that_is_named_is_read(tmp_path):
    Ledger(tmp_path / "far" / "ledger.db").change(
        ["far_one"], lambda *_: {"phase": "off"}, action="stop", actor="a", reason=""
    )

    assert complete(["rollback", "--state-dir", str(tmp_path / "far"), "f"]) == ["far_one"]


def test_neither_a_damaged_ledger_nor_a_wrong_option_stops_it(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "ledger.db").write_bytes(b"no database" * 1000)

    assert complete(["rollback", "--state-dir", str(tmp_path / "bad"), ""]) == FEATURES
    assert complete(["rollback", "--config", "nope.yaml", ""]) == FEATURES


def test_the_stages_that_it_knows_are_the_usual_ones():
    assert tuple(each.name for each in DEFAULT_STAGES) == STAGES


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_short_and_calls_back(shell, capsys):
    assert run(["completion", shell]) == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 4
    assert max(map(len, lines)) <= 110
    assert any("wicketgate __complete" in line for line in lines)


def test_what_is_offered_is_printed_a_line_each(capsys):
    assert run(["__complete", "rollout", "un"]) == ExitCode.DONE

    assert capsys.readouterr().out == "unkill\n"
