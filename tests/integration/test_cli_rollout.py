"""Pins the commands of a rollout against a gateway that watches: verdicts, waits, screens, kill switch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from rollout.guards import ArmCounts, Findings, Guard, Reading
from rollout.verdict import Judged, Kind, Verdict
from tests.control_socket import Gateway
from tests.terminal import on_a_terminal
from wicketgate.cli.main import run
from wicketgate.config import load
from wicketgate.errors import ExitCode
from wicketgate.flags import FlagBoard
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
phase4_rollout:
  ttft_pipeline: {enabled: true, mode: staged}
  adaptive_governor: {enabled: true}
  http2_transport: {enabled: true, mode: staged, key: connection}
"""
FEATURE = "ttft_pipeline"
MISSING = Verdict(
    kind=Kind.INCONCLUSIVE,
    reasons=("611 canary requests, 0 failed; 1 076 are needed",),
    needs_requests=465,
    eta_s=64_800.0,
)
PASSED = Verdict(kind=Kind.PASS, eta_s=0.0)
SEEN = Findings(
    readings={Guard.ERRORS: Reading(guard=Guard.ERRORS, evidence=0.4, limit=2000.0)},
    canary=ArmCounts(finished=611),
    control=ArmCounts(finished=60_000),
    canary_upper_ratio=0.0075,
    served_s=86_400.0,
    needed_requests=465,
    canary_per_s=26 / 3600,
)


@pytest.fixture
def place(tmp_path):
    """A configuration, a state folder, and how to name them on a command line."""
    config = tmp_path / "runtime.yaml"
    config.write_text(CONFIG)
    state_dir = tmp_path / "s"
    state_dir.mkdir()
    options = ["--config", str(config), "--state-dir", str(state_dir)]
    ledger = Ledger(state_dir / "ledger.db")
    return SimpleNamespace(config=config, options=options, ledger=ledger, socket=state_dir / "control.sock")


@pytest.fixture
def gateway(place) -> Iterator[Gateway]:
    """A gateway that answers and watches its ledger."""
    board = FlagBoard(load(place.config).rollout, place.ledger)
    server = Gateway(place.socket, board)
    board.start()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    board.stop()


def called(place, *words: str) -> int:
    """Run a command on the place."""
    return run([*words, *place.options])


def answer(capsys) -> dict:
    """Parse the one object that a command printed."""
    return json.loads(capsys.readouterr().out)


def move(place, action: str, **fields: object) -> None:
    """Change the feature as a controller of the gateway does."""
    place.ledger.change(
        [FEATURE],
        lambda _, row: {**row.document, "cause": action, "actor": "auto:test", "reason": "why", **fields},
        action=action,
        actor="auto:test",
        reason="why",
    )


def once_asked(gateway: Gateway, times: int, what: Callable[[], object]) -> threading.Thread:
    """Do something once a command has asked the gateway so many times more."""
    enough = gateway.asked + times

    def act() -> None:
        waiting = threading.Event()
        while gateway.asked < enough:
            waiting.wait(0.01)
        what()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_promotion_without_the_evidence_is_refused_in_words(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(SEEN, MISSING)
    capsys.readouterr()

    assert called(place, "rollout", "promote", FEATURE) == ExitCode.REFUSED

    assert capsys.readouterr().err.splitlines() == [
        "error: ttft_pipeline stays at canary, for want of evidence: 611 canary requests, 0 failed; 1 076 "
        "are needed. At 26 requests/h that is about 18 h. Nothing was done.",
        '  Promote anyway: wicketgate rollout promote ttft_pipeline --force --reason "..."',
    ]
    assert place.ledger.verify() == 1


def test_a_promotion_with_the_evidence_goes_on_and_the_audit_keeps_it(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(SEEN, PASSED)

    assert called(place, "rollout", "promote", FEATURE) == ExitCode.DONE

    assert "1 % → 10 % of sessions, early 2/4" in capsys.readouterr().out
    last = place.ledger.history(FEATURE, limit=1)[0]
    assert (last["action"], last["evidence"]["canary"]["finished"]) == ("promote", 611)


def test_a_forced_promotion_keeps_the_evidence_that_it_went_against(place, gateway):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(SEEN, MISSING)

    assert called(place, "rollout", "promote", FEATURE, "--force", "--yes", "--reason", "x") == ExitCode.DONE

    assert place.ledger.history(FEATURE, limit=1)[0]["evidence"]["needed_requests"] == 465


def test_the_status_tells_what_the_guards_have_seen(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(SEEN, MISSING)
    capsys.readouterr()

    called(place, "rollout", "status", FEATURE)

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(" requests    611 canary, 0 failed; failure rate is below") for line in lines)
    assert any(line.endswith("611 of 1 076 clean requests") for line in lines)


@pytest.mark.parametrize(
    ("action", "fields", "word", "code"),
    [
        ("promote", {"stage": "early", "share_millipercent": 10_000}, "promoted", ExitCode.DONE),
        ("promote", {"phase": "complete", "stage": "full"}, "complete", ExitCode.DONE),
        ("rollback", {"phase": "rolled_back", "share_millipercent": 0}, "rolled_back", ExitCode.CHECK_FAILED),
        ("hold", {"phase": "holding"}, "holding", ExitCode.CHECK_FAILED),
        ("pause", {"phase": "paused"}, "paused", ExitCode.CHECK_FAILED),
    ],
)
def test_a_start_that_waits_ends_with_its_stage(place, gateway, capsys, action, fields, word, code):
    thread = once_asked(gateway, 3, lambda: move(place, action, **fields))

    assert called(place, "rollout", "start", FEATURE, "--wait", "20s", "--json") == code

    thread.join()
    document = answer(capsys)
    assert (document["schema"], document["ok"]) == ("wicketgate.change/1", code == ExitCode.DONE)
    assert document["outcome"]["outcome"] == word
    assert document["outcome"]["revision"] == 2


def test_a_wait_that_is_too_long_says_where_it_stands(place, gateway, capsys):
    code = called(place, "rollout", "start", FEATURE, "--wait", "300ms")

    out = capsys.readouterr().out
    assert code == ExitCode.TIMED_OUT
    assert "! ttft_pipeline after 0 s: timed out: ttft_pipeline is still at canary 1/4 after 300 ms" in out


def test_a_rollback_that_comes_while_one_waits_is_told_with_its_reason(place, gateway, capsys):
    thread = once_asked(
        gateway, 3, lambda: gateway.board.rollback(FEATURE, actor="auto:errors", reason="3 of 9 failed")
    )

    assert called(place, "rollout", "start", FEATURE, "--wait", "20s") == ExitCode.CHECK_FAILED

    thread.join()
    assert "✗ ttft_pipeline after" in (out := capsys.readouterr().out)
    assert "rolled back: by auto:errors: 3 of 9 failed" in out


def test_a_compressed_rollout_says_that_it_is_a_rehearsal(place, gateway, capsys):
    assert called(place, "rollout", "start", FEATURE, "--compress", "1440") == ExitCode.DONE

    assert "A rehearsal: every hold is divided by 1440, this one is 1 min." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ([], ExitCode.DONE),
        ([["rollout", "start", FEATURE]], ExitCode.DONE),
        ([["rollout", "start", FEATURE], ["rollout", "pause", FEATURE]], ExitCode.CHECK_FAILED),
        ([["rollback", FEATURE]], ExitCode.CHECK_FAILED),
    ],
)
def test_a_status_can_be_a_check(place, gateway, before, code):
    for words in before:
        called(place, *words)

    assert called(place, "rollout", "status", "--exit-code") == code
    assert called(place, "rollout", "status") == ExitCode.DONE


def test_a_watch_that_waits_ends_by_itself_and_tells_every_change_as_one_object_a_line(
    place, gateway, capsys
):
    called(place, "rollout", "start", FEATURE)
    capsys.readouterr()
    thread = once_asked(gateway, 2, lambda: move(place, "hold", phase="holding"))

    code = called(place, "rollout", "status", FEATURE, "--watch", "--json", "--wait", "20s")

    thread.join()
    phases = [json.loads(line)["features"][0]["phase"] for line in capsys.readouterr().out.splitlines()]
    assert (code, phases) == (ExitCode.CHECK_FAILED, ["running", "holding"])


def test_a_watch_that_is_piped_prints_a_screen_at_every_change(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    capsys.readouterr()
    thread = once_asked(gateway, 2, lambda: move(place, "hold", phase="holding"))

    called(place, "rollout", "status", FEATURE, "--watch", "--wait", "20s")

    thread.join()
    captured = capsys.readouterr()
    titles = [line for line in captured.out.splitlines() if line.startswith(FEATURE)]
    assert [title.split("  revision")[0] for title in titles] == [
        "ttft_pipeline  ▸ canary 1/4",
        "ttft_pipeline  ‖ holding 1/4",
    ]
    assert "\x1b" not in captured.out
    assert captured.err == "holding: why\n"


def test_a_watch_on_a_terminal_draws_over_itself_and_leaves_the_last_screen(place, gateway):
    called(place, "rollout", "start", FEATURE)
    done = {"phase": "complete", "stage": "full", "share_millipercent": 100_000}
    thread = once_asked(gateway, 2, lambda: move(place, "promote", **done))

    code, shown = on_a_terminal(
        place.options, "rollout", "status", FEATURE, "--watch", "--wait", "20s", columns=80
    )

    thread.join()
    inside, _, after = shown.partition("\x1b[?1049l")
    assert code == ExitCode.DONE
    assert "\x1b[?1049h" in inside
    assert "▸ canary 1/4" in inside
    assert "✓ complete" in after
    assert "complete: every stage was passed" in after


def test_ctrl_c_ends_a_watch_and_gives_the_screen_back(place, gateway):
    called(place, "rollout", "start", FEATURE)

    code, shown = on_a_terminal(
        place.options, "rollout", "status", "--watch", columns=80, until=b"FEATURE", typed=b"\x03"
    )

    assert code == ExitCode.INTERRUPTED
    assert "\x1b[?25h\x1b[?1049l" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("columns", [80, 126])
def test_the_table_fits_the_terminal(place, gateway, columns):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(SEEN, MISSING)

    _, shown = on_a_terminal(place.options, "rollout", "status", "--color", "never", columns=columns)

    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert ("HOLD" in lines[0]) == (columns == 126)


def test_a_kill_puts_every_feature_off_and_an_unkill_puts_them_back(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE, "--at", "full", "--yes")
    capsys.readouterr()

    assert called(place, "rollout", "kill", "--reason", "INC-1") == ExitCode.DONE

    assert gateway.board.assign("any").on == frozenset()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ every feature: 0 %   revision 2   off for new requests after")
    assert lines[1] == "  14 requests that began before will finish; nothing was cancelled."
    assert lines[2] == "  Undo: wicketgate rollout unkill"

    assert called(place, "rollout", "unkill", "--yes") == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ kill switch: released   revision 3")
    assert "  ttft_pipeline: 0 % → 100 %" in lines
    assert lines[-1] == "  Undo: wicketgate rollout kill"
    assert FEATURE in gateway.board.assign("any").on


def test_without_a_gateway_a_kill_writes_the_ledger_and_twice_is_once(place, capsys):
    assert called(place, "rollout", "kill", "--json") == ExitCode.DONE
    first = answer(capsys)
    assert called(place, "rollout", "kill") == ExitCode.DONE

    assert (first["changed"], first["revision"], first["gateway"]) == (True, 1, "none")
    assert capsys.readouterr().out == "The kill switch is on already; nothing was changed.\n"
    assert place.ledger.read().killed
    assert place.ledger.verify() == 1


def test_a_kill_that_the_gateway_could_not_save_is_not_durable(place, gateway, capsys):
    place.ledger.path.write_bytes(b"no database" * 1000)

    assert called(place, "rollout", "kill") == ExitCode.NOT_DURABLE

    assert "every feature is off in the running gateway, and not saved" in capsys.readouterr().err
    assert gateway.board.assign("any").on == frozenset()


def test_an_unkill_says_that_the_file_still_kills(place, capsys):
    called(place, "rollout", "kill")
    place.config.write_text(CONFIG.replace("phase4_rollout:", "phase4_rollout:\n  kill_switch: true"))
    capsys.readouterr()

    assert called(place, "rollout", "unkill", "--yes") == ExitCode.DONE
    assert (
        f"! Every feature stays at 0 %: kill_switch: true stands in {place.config}."
        in capsys.readouterr().out
    )

    assert called(place, "rollout", "unkill", "--yes") == ExitCode.DONE
    assert "The ledger's kill switch is not on, but kill_switch: true stands in" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["kill"], ["unkill"]])
def test_a_rehearsed_switch_changes_nothing(place, words, capsys):
    called(place, "rollout", *words, "--dry-run", "--json")

    document = answer(capsys)
    assert (document["changed"], document["dry_run"]) == (False, True)
    assert place.ledger.verify() == 0


def test_a_rehearsed_rollback_changes_nothing(place, gateway, capsys):
    assert called(place, "rollback", FEATURE, "--dry-run") == ExitCode.DONE

    assert capsys.readouterr().out == (
        "Would roll back ttft_pipeline to 0 % for new requests. Nothing was changed.\n"
    )
    assert place.ledger.verify() == 0


def test_the_history_tells_who_what_why_and_that_its_chain_holds(place, capsys):
    called(place, "rollout", "start", FEATURE, "--reason", "release")
    called(place, "rollback", FEATURE, "--reason", "INC-1")
    called(place, "rollback", "adaptive_governor")
    capsys.readouterr()

    assert called(place, "rollout", "history", FEATURE) == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[1].split()[3:]).startswith("ttft_pipeline ✗ rollback canary rolled back")
    assert lines[1].endswith("INC-1")
    assert lines[2].endswith("release")
    assert lines[-1] == "✓ 3 changes, and the chain of the audit holds."


def test_a_history_that_was_edited_is_told_and_is_no_success(place, capsys):
    import sqlite3

    called(place, "rollout", "start", FEATURE)
    with sqlite3.connect(place.ledger.path) as db:
        db.execute("UPDATE audit SET document = replace(document, 'start', 'pause')")
    db.close()
    capsys.readouterr()

    assert called(place, "rollout", "history") == ExitCode.CHECK_FAILED
    assert "the audit does not hold at revision 1; it was edited." in capsys.readouterr().out

    assert called(place, "rollout", "history", "--json") == ExitCode.CHECK_FAILED
    assert answer(capsys)["audit"]["ok"] is False


def test_a_history_without_a_change_says_so(place, capsys):
    assert called(place, "rollout", "history") == ExitCode.DONE

    assert capsys.readouterr().out == "Nothing was changed yet.\n"


def test_what_the_guards_had_seen_stands_in_the_history(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    gateway.judged[FEATURE] = Judged(replace(SEEN, canary=ArmCounts(finished=6, failed=3)), PASSED)
    called(place, "rollout", "promote", FEATURE, "--reason", "quiet")
    capsys.readouterr()

    called(place, "rollout", "history")

    assert capsys.readouterr().out.splitlines()[1].endswith("quiet; 3 of 9 failed, errors at 0.4 of 2 000")


def test_a_key_is_explained(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE, "--reason", "release")
    capsys.readouterr()

    assert called(place, "rollout", "explain", FEATURE, "--key", "sess-81") == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✗ off  the key is not within 1 % of sessions at canary"
    assert lines[1].startswith("  revision 1 by ")
    assert lines[2] == "  bucket 0.15146 of 1; would be on at 15.146 % or more: from mid on"


def test_what_is_explained_is_what_the_gateway_decides(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE, "--at", "mid", "--yes")
    capsys.readouterr()
    decided, explained = [], []
    for number in range(20):
        called(place, "rollout", "explain", FEATURE, "--key", f"k{number}", "--json")
        explained.append(answer(capsys)["on"])
        decided.append(FEATURE in gateway.board.assign(f"k{number}").on)

    assert explained == decided
    assert {True, False} == set(decided)


def test_the_flags_are_exported_for_flagd(place, gateway, capsys):
    called(place, "rollout", "start", FEATURE)
    capsys.readouterr()

    assert called(place, "rollout", "export", "--format", "flagd") == ExitCode.DONE

    flag = answer(capsys)["flags"][FEATURE]
    assert flag["targeting"] == {"fractional": [["on", 1000], ["off", 99_000]]}


def test_the_flags_are_exported_for_a_script(place, capsys):
    assert called(place, "rollout", "export", "--format", "json") == ExitCode.DONE

    document = answer(capsys)
    assert (document["schema"], document["bucketing"]) == ("wicketgate.export/1", "murmur3-cbor/1")
    assert {row["feature"]: row["percentage"] for row in document["features"]}["adaptive_governor"] == 100.0


def test_a_simulation_tells_what_becomes_of_each_stage(place, capsys):
    words = ["rollout", "simulate", FEATURE, "--rate", "50%", "--rps", "1", "--runs", "20"]

    assert called(place, *words) == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ttft_pipeline: 50 % of requests fail, 1 requests/s in all; the limit is 0.1 %."
    assert [line.split()[0] for line in lines[3:6]] == ["canary", "early", "mid"]
    assert all("100 %" in line for line in lines[3:6])


def test_a_simulation_is_the_same_again(place, capsys):
    words = ["rollout", "simulate", FEATURE, "--rate", "1", "--rps", "10", "--runs", "5", "--at", "canary"]
    called(place, *words, "--json")
    first = answer(capsys)
    called(place, *words, "--json")

    assert answer(capsys) == first
    assert first["stages"][0]["rolled_back_ratio"] == 1.0


@pytest.mark.needs("bash")
def test_bash_completes_with_the_script_that_is_printed(place):
    script = (
        'eval "$(wicketgate completion bash)"; '
        "COMP_WORDS=(wicketgate rollout pro); COMP_CWORD=2; _wicketgate; "
        'echo "${COMPREPLY[*]}"; COMP_WORDS=(wicketgate rollback ""); _wicketgate; echo "${COMPREPLY[@]}"'
    )
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        cwd=place.config.parent,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        "promote",
        "adaptive_governor http2_transport qos_monitoring ttft_pipeline",
    ]
