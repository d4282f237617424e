"""A really started server as operators and curl meet it: bodies, health, scrape, reload, drain."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from bench.server import free_port
from tests.conftest import DEMO
from tests.server import Gateway
from tests.unit.test_metrics import TEN

if TYPE_CHECKING:
    from pathlib import Path

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Tell me about water."}], "max_tokens": 8}


def wait_for(condition, what: str, deadline_s: float = 10.0) -> None:
    end_s = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not come true within {deadline_s} s"
        pause.wait(0.02)


@pytest.mark.needs("curl")
def test_the_printed_curl_streams_over_http2(server: Gateway) -> None:
    body = json.dumps(CHAT | {"stream": True})
    command = ["curl", "-sS", "-N", "--http2-prior-knowledge", "-i", f"{server.url}/v1/chat/completions"]

    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=30)

    assert done.stdout.startswith("HTTP/2 200")
    assert "text/event-stream" in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


@pytest.mark.needs("h2load")
def test_h2load_finds_nothing_to_complain_about(server: Gateway, tmp_path: Path) -> None:
    data = tmp_path / "body.json"
    data.write_text(json.dumps(CHAT | {"max_tokens": 2}))
    command = [
        "h2load",
        "-n",
        "40",
        "-c",
        "2",
        "-m",
        "10",
        "-d",
        str(data),
        "-H",
        "content-type: application/json",
    ]

    done = subprocess.run(
        [*command, f"{server.url}/v1/chat/completions"], capture_output=True, text=True, timeout=60
    )

    assert "40 succeeded, 0 failed, 0 errored" in done.stdout


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"pad":"' + b"x" * 10_000_000 + b'"}', 413, "request_too_large"),
    ],
)
def test_a_body_that_is_no_request_gets_its_4xx(server: Gateway, body: bytes, status: int, code: str) -> None:
    got, headers, answer = server.post("/v1/chat/completions", body)

    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["x-request-id"].startswith("req_")


def test_health_is_served_on_both_listeners(server: Gateway) -> None:
    for probe in ("live", "ready", "startup"):
        assert server.get(server.port, f"/health/{probe}")[0] == 200
        assert server.get(server.admin_port, f"/health/{probe}")[0] == 200


def test_metrics_are_on_the_admin_listener_only(server: Gateway) -> None:
    assert server.get(server.admin_port, "/metrics")[0] == 200
    assert server.get(server.port, "/metrics")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403), ({}, 401)],
)
def test_the_admin_listener_is_closed_to_strangers(
    server: Gateway, headers: dict[str, str], status: int
) -> None:
    assert server.post("/v1/rollback", {}, headers, admin=True)[0] == status


def test_the_token_file_opens_the_admin_listener(server: Gateway) -> None:
    token = (server.state_dir / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}

    status, _, answer = server.post("/v1/rollback", {"feature": "nope"}, headers, admin=True)

    assert status == 404
    assert "nope" in json.loads(answer)["error"]["message"]


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_scrapes_the_requirements_ten(server: Gateway, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: wicketgate
    static_configs: [{{targets: ["127.0.0.1:{server.admin_port}"]}}]
"""
    )
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        for name in TEN:
            wait_for(lambda name=name: query(port, name), f"a sample of {name} in Prometheus", 20)
        assert query(port, 'up{job="wicketgate"}')[0]["value"][1] == "1"
    finally:
        process.terminate()
        process.wait(10)


def query(port: int, expression: str) -> list[dict[str, list[str]]]:
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}", timeout=5) as answer:
            return json.load(answer)["data"]["result"]
    except OSError:
        return []


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_page_but_for_the_requirements_own_unit(server: Gateway) -> None:
    page = server.get(server.admin_port, "/metrics")[1]

    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30)

    complaints = done.stderr.decode().splitlines()
    assert complaints == ["ttft_p95_ms metric names should not contain abbreviated units"]


def test_the_snapshot_stream_ticks(server: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=10)
    connection.request("GET", "/v1/snapshots")
    response = connection.getresponse()
    lines = [response.readline() for _ in range(5)]
    connection.close()

    ticks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    assert len(ticks) == 2
    assert ticks[0]["schema"] == "wicketgate.snapshot/1"


LIMIT = 'wicketgate_concurrency_limit{kind="fixed"}'


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    with Gateway(tmp_path, DEMO) as server:
        server.reconfigure({**DEMO, "governor": {"limit": {"fixed": 7}}})
        good = server.metrics()[LIMIT]

        server.file.write_text(server.file.read_text().replace(": 7", ": -7"))
        wait_for(lambda: server.snapshot()["config"]["error"], "the report of the bad file")

        assert good == 7
        assert "governor.limit.fixed" in server.snapshot()["config"]["error"]
        assert server.metrics()[LIMIT] == 7


def test_a_stream_in_flight_finishes_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    answers: list[tuple[int, dict[str, str], bytes]] = []
    body = CHAT | {"max_tokens": 400, "stream": True, "ignore_eos": True}
    with Gateway(tmp_path, DEMO) as server:
        thread = threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", body)))
        thread.start()
        wait_for(lambda: server.snapshot()["flow"]["in_flight"] == 1, "a stream in flight")

        code = server.stop()
        thread.join(30)

    assert code == 0
    assert answers[0][2].rstrip().endswith(b"data: [DONE]")
    assert b'"finish_reason":"length"' in answers[0][2]


def test_a_drain_by_command_is_not_cut_by_the_one_signal_after_it(tmp_path: Path) -> None:
    answers: list[tuple[int, dict[str, str], bytes]] = []
    body = CHAT | {"max_tokens": 400, "stream": True, "ignore_eos": True}
    with Gateway(tmp_path, DEMO) as server:
        thread = threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", body)))
        thread.start()
        wait_for(lambda: server.snapshot()["flow"]["in_flight"] == 1, "a stream in flight")

        server.command("drain")
        server.tell(signal.SIGTERM)
        code = server.ended(30)
        thread.join(30)

    assert code == 0
    assert b'"finish_reason":"length"' in answers[0][2]


def test_a_drain_by_command_tells_what_is_in_flight_and_what_is_queued(tmp_path: Path) -> None:
    answers: list[bytes] = []
    body = CHAT | {"max_tokens": 400, "stream": True, "ignore_eos": True}
    alone = {"governor": {"limit": {"fixed": 1}}, "phase4_rollout": {"adaptive_governor": {"enabled": False}}}
    with Gateway(tmp_path, alone) as server:
        asking = [
            threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", body)[2]))
            for _ in range(3)
        ]
        for each in asking:
            each.start()
        wait_for(lambda: server.snapshot()["flow"]["queued"] == 2, "two that wait")

        said = json.loads(server.command("drain").out)
        code = server.ended(30)
        for each in asking:
            each.join(30)

    assert (said["in_flight"], said["queued"]) == (1, 2)
    assert code == 0
    assert [b'"finish_reason":"length"' in answer for answer in answers] == [True] * 3


def test_a_server_that_is_told_to_end_at_once_has_cut_nothing_where_nothing_was(tmp_path: Path) -> None:
    with Gateway(tmp_path, DEMO) as server:
        server.command("drain", "--now")

        assert server.ended(30) == 0


def test_two_runtimes_do_not_share_a_state_folder(server: Gateway) -> None:
    command = [sys.executable, "-m", "wicketgate", "serve", "--config", str(server.file)]
    ports = ["--port", "0", "--admin-port", "0", "--state-dir", str(server.state_dir)]

    done = subprocess.run([*command, *ports], capture_output=True, text=True, timeout=60)

    assert done.returncode == 4
    assert f"pid {server.pid}" in done.stderr


@pytest.mark.parametrize("taken", ["--port", "--admin-port"])
def test_an_address_in_use_ends_the_start_in_words(server: Gateway, tmp_path: Path, taken: str) -> None:
    command = [sys.executable, "-m", "wicketgate", "serve", "--config", str(server.file)]
    ports = {"--port": "0", "--admin-port": "0"} | {taken: str(server.port)}
    options = [word for option in ports.items() for word in option]

    done = subprocess.run(
        [*command, *options, "--state-dir", str(tmp_path / "s")], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
