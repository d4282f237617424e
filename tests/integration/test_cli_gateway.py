"""Pins the commands against a gateway's control socket: one that answers, one that hangs, and none."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.control_socket import Gateway
from tests.terminal import on_a_terminal
from wicketgate.cli import control
from wicketgate.cli.main import run
from wicketgate.config import load
from wicketgate.errors import ExitCode, TimedOutError, UnreachableError
from wicketgate.flags import FlagBoard
from wicketgate.ledger import Ledger

CONFIG = """
name: mill
phase4_rollout:
  ttft_pipeline: {enabled: true, mode: staged}
  adaptive_governor: {enabled: true}
  http2_transport: {enabled: true, rollout_percentage: 50, mode: staged, key: connection}
"""


SNAPSHOT = {
    "schema": "wicketgate.snapshot/1",
    "ok": True,
    "at": "2026-01-01T00:00:00Z",
    "name": "mill",
    "version": "0.1.0",
    "state": "ready",
    "sentence": "TTFT p95 is 21 ms over 12 requests in 60 s; 3 in flight of 32, 0 queued.",
    "pid": 4712,
    "uptime_s": 3725.0,
    "listeners": {"api": "http://127.0.0.1:8000", "admin": "http://127.0.0.1:8001"},
    "config": {"file": "mill.yaml", "error": "mill.yaml:1:1  error  the file is empty."},
    "model": {"id": "demo", "context_tokens": 8192},
    "engine": {"state": "ready", "pid": 4713, "restarts": 0, "rows": 3, "memory_bytes": 734003200},
    "models": [{"id": "demo", "state": "ready"}, {"id": "big", "state": "unloaded"}],
    "flow": {"in_flight": 3, "queued": 0, "limit": 32, "shed_total": 17},
    "latency": {"ttft_ms": {"p50": 12.0, "p95": 21.0, "p99": None}, "itl_ms": None, "window_s": 60},
    "throughput": {"requests_per_s": 0.2, "tokens_per_s": 812.5},
    "errors": {"error_ratio": 0.0125},
    "objectives": [
        {"name": "ttft-interactive", "state": "violated", "bad": 31, "total": 198, "why": "p95 over 500 ms"}
    ],
}


@pytest.fixture
def place(tmp_path):
    """A configuration, a state folder, and how to name them on a command line."""
    config = tmp_path / "runtime.yaml"
    config.write_text(CONFIG)
    state_dir = tmp_path / "s"
    state_dir.mkdir()
    ledger = Ledger(state_dir / "ledger.db")
    options = ["--config", str(config), "--state-dir", str(state_dir)]
    return SimpleNamespace(
        config=config, dir=state_dir, ledger=ledger, options=options, socket=state_dir / "control.sock"
    )


@pytest.fixture
def gateway(place):
    """A gateway that answers and watches its ledger."""
    board = FlagBoard(load(place.config).rollout, place.ledger)
    server = Gateway(place.socket, board, snapshot=SNAPSHOT)
    board.start()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield board
    server.shutdown()
    thread.join()
    server.server_close()
    board.stop()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for state, and a working folder beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WICKETGATE_CONFIG", raising=False)
    return tmp_path / "home" / "wicketgate"


@contextmanager
def listener(path, *, backlog: int = 5):
    """Listen without ever answering: a gateway whose event loop is blocked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(path))
        hung.listen(backlog)
        yield hung


def called(place, *words: str) -> int:
    """Run a command on the place."""
    return run([*words, *place.options])


def answer(capsys) -> dict:
    """Parse the one object that a command printed."""
    return json.loads(capsys.readouterr().out)


def percentage(board: FlagBoard, feature: str) -> object:
    """Tell a feature's share."""
    return next(row["percentage"] for row in board.describe() if row["feature"] == feature)


def test_a_rollout_is_started_and_the_gateway_confirms_it(place, gateway, capsys):
    code = called(place, "rollout", "start", "ttft_pipeline", "--reason", "try it")

    out = capsys.readouterr().out
    assert code == ExitCode.DONE
    assert "✓ ttft_pipeline: 0 % → 1 % of sessions, canary 1/4   revision 1   in force after" in out
    assert "Requests in flight finish as they began." in out
    assert "Undo: wicketgate rollback ttft_pipeline" in out
    assert percentage(gateway, "ttft_pipeline") == 1.0


def test_a_start_at_the_last_stage_puts_the_next_request_on_and_a_rollback_off_again(place, gateway, capsys):
    assert called(place, "rollout", "start", "ttft_pipeline", "--at", "full", "--yes") == ExitCode.DONE
    assert "ttft_pipeline" in gateway.assign("any").on

    assert called(place, "rollback", "ttft_pipeline", "--reason", "INC-42") == ExitCode.DONE

    assert "ttft_pipeline" not in gateway.assign("any").on
    out = capsys.readouterr().out
    assert "✓ ttft_pipeline: 100 % → 0 %   revision 2   off for new requests after" in out
    assert "14 requests started with it and will finish; nothing was cancelled." in out
    assert 'Undo: wicketgate rollout start ttft_pipeline --at full --reason "..."' in out


def test_a_rollback_is_told_as_one_object(place, gateway, capsys):
    assert called(place, "rollback", "--all", "--json") == ExitCode.DONE

    document = answer(capsys)
    assert (document["ok"], len(document["features"])) == (True, 4)
    assert document["gateway"] in ("answered", "confirmed")  # after 0.1 s the ledger is written directly
    assert gateway.assign("any").on == frozenset()


def test_a_change_is_told_as_one_object(place, gateway, capsys):
    called(place, "rollout", "start", "ttft_pipeline", "--json")

    document = answer(capsys)
    assert document.pop("took_s") > 0
    assert document == {
        "schema": "wicketgate.change/1",
        "ok": True,
        "action": "start",
        "feature": "ttft_pipeline",
        "changed": True,
        "dry_run": False,
        "from_percentage": 0.0,
        "to_percentage": 1.0,
        "phase": "running",
        "stage": "canary",
        "cause": "stage",
        "compress": 1.0,
        "revision": 1,
        "gateway": "up",
    }


def test_a_share_is_capped_by_the_ceiling_and_says_so(place, gateway, capsys):
    called(place, "rollout", "start", "http2_transport", "--at", "full", "--yes")

    out = capsys.readouterr().out
    assert "0 % → 50 % of connections, complete" in out
    assert "Its share is not its stage's: capped by rollout_percentage." in out


def test_pause_resume_promote_and_stop_go_through_the_stages(place, gateway, capsys):
    phases = []
    for words in (
        ["start"],
        ["pause"],
        ["resume"],
        ["promote", "--force", "--reason", "quiet night", "--yes"],
        ["stop"],
    ):
        assert called(place, "rollout", words[0], "ttft_pipeline", *words[1:], "--json") == ExitCode.DONE
        document = answer(capsys)
        phases.append((document["phase"], document["to_percentage"]))

    assert phases == [("running", 1.0), ("paused", 1.0), ("running", 1.0), ("running", 10.0), ("off", 0.0)]
    assert place.ledger.verify() == 5


@pytest.mark.parametrize(
    ("before", "words", "undo"),
    [
        ([], ["pause"], "rollout resume ttft_pipeline"),
        ([["pause"]], ["resume"], "rollout pause ttft_pipeline"),
        ([], ["stop"], "rollout start ttft_pipeline --at canary"),
    ],
)
def test_every_change_names_the_command_that_undoes_it(place, gateway, capsys, before, words, undo):
    for each in (["start"], *before, words):
        called(place, "rollout", each[0], "ttft_pipeline")

    assert capsys.readouterr().out.splitlines()[-1] == f"  Undo: wicketgate {undo}"


def test_a_change_that_changes_nothing_says_so_and_writes_nothing(place, gateway, capsys):
    assert called(place, "rollout", "stop", "ttft_pipeline") == ExitCode.DONE

    assert capsys.readouterr().out == "ttft_pipeline is off already; nothing was changed.\n"
    assert place.ledger.verify() == 0


def test_a_dry_run_says_what_would_happen_and_writes_nothing(place, gateway, capsys):
    assert called(place, "rollout", "start", "ttft_pipeline", "--dry-run") == ExitCode.DONE

    out = capsys.readouterr().out
    assert out == "Would start ttft_pipeline: 0 % → 1 % of sessions, canary 1/4. Nothing was changed.\n"
    assert place.ledger.verify() == 0


def test_a_direct_feature_is_reset_after_a_rollback(place, gateway, capsys):
    called(place, "rollback", "adaptive_governor")

    words = ["rollout", "reset", "adaptive_governor", "--reason", "fixed"]
    assert called(place, *words) == ExitCode.USAGE
    assert called(place, *words, "--yes") == ExitCode.DONE

    assert "adaptive_governor" in gateway.assign("any").on
    assert 'Undo: wicketgate rollout reset adaptive_governor --reason "..."' in capsys.readouterr().out


def test_the_status_is_a_sentence_and_a_table(place, gateway, capsys):
    assert called(place, "status") == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"! {SNAPSHOT['sentence']}"
    assert (
        "config     the last edit of mill.yaml was refused, the one before is in force:"
        " wicketgate validate mill.yaml"
    ) in lines
    assert "engine     ready, pid 4713, 0 restarts, 3 rows, 700.0 MiB" in lines
    assert "flow       3 in flight, 0 queued, limit 32, 17 shed since start" in lines
    assert "errors     1.25 %" in lines
    assert any(line.startswith("ttft-interactive  violated  31 of 198") for line in lines)
    assert any(line.startswith("adaptive_governor  ✓ direct") for line in lines)


def test_the_status_as_json_is_the_snapshot_itself(place, gateway, capsys):
    called(place, "status", "--json")

    rows = [{**row, "in_flight_on": 3} for row in gateway.describe()]
    assert answer(capsys) == json.loads(json.dumps({**SNAPSHOT, "rollouts": rows}))


def test_the_features_are_told_by_the_gateway(place, gateway, capsys):
    assert called(place, "rollout", "status", "--json") == ExitCode.DONE

    assert [row["in_flight_on"] for row in answer(capsys)["features"]] == [3, 3, 3, 3]


def test_one_feature_is_told_with_who_changed_it_and_why(place, gateway, capsys):
    called(place, "rollout", "start", "ttft_pipeline", "--reason", "INC-7")
    capsys.readouterr()

    called(place, "rollout", "status", "ttft_pipeline")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ttft_pipeline  ▸ canary 1/4  revision 1"
    assert any(line.startswith(" changed     20") and line.endswith(": INC-7") for line in lines)
    assert lines[-1] == " take back   wicketgate rollback ttft_pipeline"


def test_the_declaration_is_listed(place, gateway, capsys):
    called(place, "rollout", "list")

    assert "http2_transport    staged     50 %  yes      connection" in capsys.readouterr().out


def test_a_misspelt_feature_is_refused_by_the_gateway_too(place, gateway, capsys):
    assert called(place, "rollback", "ttft_pipeln") == ExitCode.USAGE

    assert "Did you mean ttft_pipeline? Nothing was rolled back." in capsys.readouterr().err


def test_without_a_gateway_a_rollback_writes_the_ledger(place, capsys):
    assert called(place, "rollback", "adaptive_governor", "--reason", "INC-42") == ExitCode.DONE

    out = capsys.readouterr().out
    assert "✓ adaptive_governor: 0 %   revision 1   saved after" in out
    assert "No gateway is running; it holds from the next start on." in out
    row = place.ledger.read().rows["adaptive_governor"].document
    assert (row["phase"], row["reason"]) == ("rolled_back", "INC-42")
    assert FlagBoard(load(place.config).rollout, place.ledger).assign("any").on == frozenset()


def test_without_gateway_and_configuration_a_rollback_still_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert run(["rollback", "--all", "--state-dir", str(tmp_path / "new")]) == ExitCode.DONE

    assert len(Ledger(tmp_path / "new" / "ledger.db").read().rows) == 4


def test_a_configuration_that_cannot_be_read_does_not_stop_a_rollback(place, capsys):
    place.config.write_text("a: [")

    assert called(place, "rollback", "ttft_pipeline") == ExitCode.DONE
    assert "cannot be read" in capsys.readouterr().err


def test_without_a_gateway_a_rollout_is_started_for_the_next_start(place, capsys):
    assert called(place, "rollout", "start", "ttft_pipeline") == ExitCode.DONE

    assert "No gateway is running; it holds from the next start on." in capsys.readouterr().out
    board = FlagBoard(load(place.config).rollout, place.ledger)
    assert percentage(board, "ttft_pipeline") == 1.0


def test_without_a_gateway_the_features_are_told_from_ledger_and_configuration(place, capsys):
    called(place, "rollback", "ttft_pipeline")
    capsys.readouterr()

    assert called(place, "rollout", "status") == ExitCode.DONE

    captured = capsys.readouterr()
    assert "ttft_pipeline      ✗ rolled back    0 %" in captured.out
    assert captured.err.startswith("No gateway is running;")


def test_a_hung_gateway_does_not_stop_a_rollback_and_is_said_to_be_silent(place, capsys):
    with listener(place.socket):
        code = called(place, "rollback", "ttft_pipeline")

    assert code == ExitCode.DONE
    assert "The running gateway does not answer; it takes this up from the ledger" in capsys.readouterr().out
    assert place.ledger.read().rows["ttft_pipeline"].document["phase"] == "rolled_back"


def test_a_hung_gateway_does_not_stop_a_kill(place, capsys):
    with listener(place.socket):
        code = called(place, "rollout", "kill")

    assert code == ExitCode.DONE
    assert "The running gateway does not answer; it takes this up from the ledger" in capsys.readouterr().out
    assert place.ledger.read().killed


def test_a_gateway_that_takes_no_connection_does_not_stop_a_rollback(place):
    with listener(place.socket, backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.setblocking(False)
        first.connect(str(place.socket))
        code = called(place, "rollback", "ttft_pipeline")

    assert code == ExitCode.DONE
    assert "ttft_pipeline" in place.ledger.read().rows


def test_a_hung_gateway_is_told_from_none(place, capsys):
    with listener(place.socket):
        assert called(place, "status") == ExitCode.TIMED_OUT
        assert called(place, "rollout", "status") == ExitCode.DONE

    assert "The running gateway does not answer" in capsys.readouterr().err


def test_a_rollback_that_the_gateway_could_not_save_is_not_durable(place, gateway, capsys):
    place.ledger.path.write_bytes(b"no database" * 1000)

    assert called(place, "rollback", "adaptive_governor") == ExitCode.NOT_DURABLE

    assert "is off in the running gateway, and not saved" in capsys.readouterr().err
    assert gateway.assign("any").on == frozenset()


def test_without_a_gateway_a_damaged_ledger_is_an_error(place, capsys):
    place.ledger.path.write_bytes(b"no database" * 1000)

    assert called(place, "rollback", "adaptive_governor") == ExitCode.INTERNAL
    assert "cannot be used: file is not a database" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps state in the Library folder")
def test_the_only_running_runtime_is_found_and_named(place, gateway, home, capsys, monkeypatch):
    # A short one: in a long one the socket would be elsewhere.
    with tempfile.TemporaryDirectory() as short:
        home = Path(short) / "wicketgate"
        home.mkdir()
        (home / "mill").symlink_to(place.dir)
        monkeypatch.setenv("XDG_STATE_HOME", short)

        assert run(["rollout", "list"]) == ExitCode.DONE

    captured = capsys.readouterr()
    assert captured.err == f"Using the running runtime mill ({home / 'mill'}).\n"
    assert "http2_transport" in captured.out


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps state in the Library folder")
@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (None, "home/wicketgate/default"),
        ("name: mill\n", "home/wicketgate/mill"),
        ("state_dir: kept\n", "here/kept"),
        ("name: [1]\n", "home/wicketgate/default"),
        ("just text", "home/wicketgate/default"),
    ],
)
def test_the_ledger_is_found_by_the_configuration_in_the_working_folder(home, config, folder):
    if config:
        with open("runtime.yaml", "w") as file:
            file.write(config)

    assert run(["rollback", "ttft_pipeline"]) == ExitCode.DONE

    assert (home.parent.parent / folder / "ledger.db").exists()


def test_the_variable_names_the_configuration(home, tmp_path, monkeypatch):
    (tmp_path / "other.yaml").write_text("state_dir: far\n")
    monkeypatch.setenv("WICKETGATE_CONFIG", str(tmp_path / "other.yaml"))

    assert run(["rollback", "ttft_pipeline"]) == ExitCode.DONE

    assert (tmp_path / "far" / "ledger.db").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps state in the Library folder")
def test_of_several_running_runtimes_none_is_guessed(home, capsys):
    for name in ("a", "b"):
        (home / name).mkdir(parents=True)
    with listener(home / "a" / "control.sock"), listener(home / "b" / "control.sock"):
        assert run(["rollback", "ttft_pipeline"]) == ExitCode.DONE

    note = "Several runtimes are running (a, b); choose one with --state-dir."
    assert capsys.readouterr().err.splitlines() == [note]
    assert (home / "default" / "ledger.db").exists()


def test_what_answers_nonsense_is_no_gateway(tmp_path):
    path = tmp_path / "x.sock"
    with listener(path) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(UnreachableError, match="is no gateway"):
            control.request(path, "GET", "/v1/rollout", timeout_s=2.0)
        thread.join()


def test_no_answer_in_time_is_told_from_nobody_there(tmp_path):
    with listener(tmp_path / "x.sock"), pytest.raises(TimedOutError):
        control.request(tmp_path / "x.sock", "GET", "/", timeout_s=0.05)
    with pytest.raises(UnreachableError, match="no gateway is running"):
        control.request(tmp_path / "y.sock", "GET", "/", timeout_s=0.05)


def test_a_question_that_is_answered_no_changes_nothing(place):
    code, shown = on_a_terminal(
        place.options, "rollout", "start", "ttft_pipeline", "--at", "mid", typed=b"\n"
    )

    assert code == ExitCode.REFUSED
    assert "Start ttft_pipeline at mid 3/4: 0 % → 50 % of sessions? [y/N]" in shown
    assert place.ledger.verify() == 0


def test_a_question_that_is_answered_yes_goes_on(place):
    code, _ = on_a_terminal(place.options, "rollout", "start", "ttft_pipeline", "--at", "mid", typed=b"y\n")

    assert code == ExitCode.DONE
    assert place.ledger.verify() == 1


def test_ctrl_c_at_a_question_ends_quietly(place):
    code, shown = on_a_terminal(
        place.options, "rollout", "start", "ttft_pipeline", "--at", "mid", typed=b"\x03"
    )

    assert code == ExitCode.INTERRUPTED
    assert "Traceback" not in shown


def test_a_closed_pipe_ends_quietly(place):
    command = [sys.executable, "-m", "wicketgate", "rollout", "list", *place.options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()

    assert process.returncode == ExitCode.PIPE_CLOSED
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors


def test_an_interrupt_from_outside_ends_quietly(place):
    with listener(place.socket) as hung:
        command = [sys.executable, "-m", "wicketgate", "status", *place.options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            connection, _ = hung.accept()
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read()
        connection.close()

    assert process.returncode == ExitCode.INTERRUPTED
    assert errors == b""


@pytest.mark.parametrize("words", [["rollout", "list"], ["rollback", "--all", "--json"]])
def test_without_standard_streams_a_command_does_its_work(place, words):
    command = shlex.join([sys.executable, "-m", "wicketgate", *words, *place.options])

    done = subprocess.run(["sh", "-c", f"exec {command} <&- >&-"], stderr=subprocess.PIPE, text=True)

    assert done.returncode == ExitCode.DONE
    assert "Traceback" not in done.stderr
