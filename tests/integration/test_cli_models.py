"""Pins `wicketgate model` and `cache` against a control socket that answers as the gateway does."""

from __future__ import annotations

import json
import threading
from socketserver import ThreadingUnixStreamServer
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from tests.control_socket import JsonAnswers
from wicketgate.cli.cache import sessions
from wicketgate.cli.main import run
from wicketgate.cli.output import EN_DASH
from wicketgate.errors import ExitCode


def row(name: str, state: str, **more: object) -> dict[str, object]:
    usual = {"pinned": False, "load": "start", "weights_bytes": 5 << 20, "pid": None, "in_use": 0}
    told = {"idle_s": 3.2, "safe_mode": None, "last_exit": None}
    return {"id": name, "state": state, **usual, **told, **more}


ENTRY = {"key": "ab", "tokens": 100, "size_bytes": 128_000, "tier": "memory", "is_pinned": False, "age_s": 2}
REPORT = {
    "model": "demo",
    "entries": [
        {**ENTRY, "session": "one"},
        {**ENTRY, "session": "one", "tokens": 300, "size_bytes": 307_200},
        {**ENTRY, "session": "", "is_pinned": True},
        {**ENTRY, "session": "two", "tier": "disk"},
    ],
    "memory_bytes": 563_200,
    "memory_limit_bytes": 1 << 28,
    "disk_bytes": 128_000,
    "disk_limit_bytes": 1 << 30,
    "hits": 3,
    "misses": 1,
    "disk_hits": 1,
    "rejected_files": 0,
    "kv_bytes_per_token": 1024,
    "rows": 2,
    "rows_tokens": 1000,
    "rows_bytes": 1_536_000,
}


class Gateway(ThreadingUnixStreamServer):
    """A control socket; each look at the models takes the next of `looks`, the last one again and again."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.looks = [[row("demo", "ready", pid=7), row("org/big", "unloaded", load="demand", pinned=True)]]
        self.refusal: tuple[int, str] | None = None
        self.asked: list[tuple[str, object]] = []
        super().__init__(path, _Answers)


class _Answers(JsonAnswers):
    def do_GET(self) -> None:
        self.server.asked.append((self.path, None))
        if self.path.startswith("/v1/engine/cache"):
            self._answer(200, {"ok": True, "models": [REPORT]})
        else:
            looks = self.server.looks
            self._answer(200, {"ok": True, "models": looks.pop(0) if len(looks) > 1 else looks[0]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body))
        if self.server.refusal is not None:
            status, message = self.server.refusal
            self._answer(status, {"error": {"message": message, "code": "x"}})
        else:
            self.do_GET() if "cache" not in self.path else self._answer(200, {"ok": True, "models": [REPORT]})


@pytest.fixture
def gateway(tmp_path):
    (tmp_path / "s").mkdir()
    server = Gateway(str(tmp_path / "s" / "control.sock"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(server=server, options=["--state-dir", str(tmp_path / "s")])
    server.shutdown()
    thread.join()
    server.server_close()


def called(gateway, *words: str) -> int:
    return run([*words, *gateway.options])


def test_models_are_listed_with_what_is_special_about_them(gateway, capsys):
    assert called(gateway, "model", "ls") == ExitCode.DONE

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["demo", "ready", "5.0", "MiB", "0", "3", "s", "7"]
    assert lines[2] == [
        "org/big",
        "unloaded",
        "5.0",
        "MiB",
        "0",
        "3",
        "s",
        EN_DASH,
        "pinned,",
        "on",
        "demand",
    ]


def test_models_as_json_are_the_gateways_answer(gateway, capsys):
    called(gateway, "model", "ls", "--json")

    assert [each["id"] for each in json.loads(capsys.readouterr().out)["models"]] == ["demo", "org/big"]


def test_a_model_is_loaded_and_not_waited_for(gateway, capsys):
    gateway.server.looks = [[row("org/big", "loading")]]

    assert called(gateway, "model", "load", "org/big") == ExitCode.DONE

    assert capsys.readouterr().out == "org/big: loading; look with: wicketgate model ls\n"
    assert unquote(gateway.server.asked[0][0]) == "/v1/engine/models/org/big/load"


def test_with_wait_it_looks_until_the_model_is_ready(gateway, capsys):
    gateway.server.looks = [[row("demo", state)] for state in ("loading", "loading", "ready")]

    assert called(gateway, "model", "load", "demo", "--wait", "--json") == ExitCode.DONE

    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["model"]["state"]) == (True, "ready")


def test_with_wait_it_looks_until_the_model_is_unloaded(gateway, capsys):
    gateway.server.looks = [[row("demo", state)] for state in ("unloading", "unloaded")]

    assert called(gateway, "model", "unload", "demo", "--wait") == ExitCode.DONE

    assert capsys.readouterr().out.startswith("✓ demo: unloaded after ")


def test_a_load_that_fails_says_why(gateway, capsys):
    gateway.server.looks = [[row("demo", "loading")], [row("demo", "failed", last_exit="no such tensor")]]

    assert called(gateway, "model", "load", "demo", "--wait") == ExitCode.INTERNAL

    assert "demo is failed: no such tensor" in capsys.readouterr().err


def test_a_wait_has_an_end(gateway):
    gateway.server.looks = [[row("demo", "loading")]]

    assert called(gateway, "model", "load", "demo", "--wait", "--timeout", "0.2") == ExitCode.TIMED_OUT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, ExitCode.USAGE),
        (422, ExitCode.REFUSED),
        (503, ExitCode.UNREACHABLE),
        (500, ExitCode.INTERNAL),
    ],
)
def test_a_refusal_has_its_exit_code_and_its_words(gateway, capsys, status, code):
    gateway.server.refusal = (status, "big does not fit now")

    assert called(gateway, "model", "load", "big") == code
    assert "big does not fit now" in capsys.readouterr().err


def test_without_a_gateway_it_says_how_to_start_one(tmp_path, capsys):
    assert run(["model", "ls", "--state-dir", str(tmp_path)]) == ExitCode.UNREACHABLE
    assert "wicketgate serve" in capsys.readouterr().err


def test_kept_prefixes_are_listed(gateway, capsys):
    called(gateway, "cache", "ls", "--model", "demo")

    out = capsys.readouterr().out
    assert gateway.server.asked[0][0] == "/v1/engine/cache?model=demo"
    assert "memory, pinned" in out
    assert out.splitlines()[1].split() == ["demo", "ab", "100", "125.0", "KiB", "memory", "2", "s", "one"]


def test_a_session_is_compared_with_the_formula():
    assert sessions(REPORT)[0] == {
        "session": "one",
        "prefixes": 2,
        "tokens": 400,
        "size_bytes": 435_200,
        "formula_bytes": 409_600,
        "overhead_ratio": 0.0625,
    }


def test_what_is_on_disk_alone_is_no_memory():
    assert [each["session"] for each in sessions(REPORT)] == ["one", ""]


def test_without_a_formula_there_is_no_overhead():
    assert sessions({**REPORT, "kv_bytes_per_token": 0})[0]["overhead_ratio"] is None


def test_stats_tell_hits_and_padding(gateway, capsys):
    called(gateway, "cache", "stats")

    out = capsys.readouterr().out
    assert "hits     75 % of 4 prompts, 1 from disk" in out
    assert "running  2 streams, 1 000 tokens, 1.5 MiB, 50 % over the formula" in out
    assert "6.2 % over the formula" in out


def test_stats_as_json_are_sessions_and_not_entries(gateway, capsys):
    called(gateway, "cache", "stats", "--json")

    (report,) = json.loads(capsys.readouterr().out)["models"]
    assert "entries" not in report
    assert [each["tokens"] for each in report["sessions"]] == [400, 100]


def test_the_cache_is_cleared_and_what_is_left_is_told(gateway, capsys):
    assert called(gateway, "cache", "clear", "--tier", "disk") == ExitCode.DONE

    assert gateway.server.asked == [("/v1/engine/cache/clear", {"model": None, "tier": "disk"})]
    assert "demo: cleared; left 550.0 KiB in memory, 125.0 KiB on disk" in capsys.readouterr().out
