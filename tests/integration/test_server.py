"""A really started server as operators and curl meet it: bodies, health, scrape, reload, drain."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.conftest import ROOT, demo_config
from tests.server import ServerProcess, free_port
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
def test_the_printed_curl_streams_over_http2(server: ServerProcess) -> None:
    body = json.dumps(CHAT | {"stream": True})
    command = ["curl", "-sS", "-N", "--http2-prior-knowledge", "-i", f"{server.url}/v1/chat/completions"]

    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=30)

    assert done.stdout.startswith("HTTP/2 200")
    assert "text/event-stream" in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


@pytest.mark.needs("h2load")
def test_h2load_finds_nothing_to_complain_about(server: ServerProcess, tmp_path: Path) -> None:
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
def test_a_body_that_is_no_request_gets_its_4xx(
    server: ServerProcess, body: bytes, status: int, code: str
) -> None:
    got, headers, answer = server.post("/v1/chat/completions", body)

    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["x-request-id"].startswith("req_")


def test_health_is_served_on_both_listeners(server: ServerProcess) -> None:
    for probe in ("live", "ready", "startup"):
        assert server.get(f"/health/{probe}")[0] == 200
        assert server.get(f"/health/{probe}", admin=True)[0] == 200


def test_metrics_are_on_the_admin_listener_only(server: ServerProcess) -> None:
    assert server.get("/metrics", admin=True)[0] == 200
    assert server.get("/metrics")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403), ({}, 401)],
)
def test_the_admin_listener_is_closed_to_strangers(
    server: ServerProcess, headers: dict[str, str], status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=10)
    connection.request("POST", "/v1/rollback", b"{}", headers)
    response = connection.getresponse()
    response.read()
    connection.close()

    assert response.status == status


def test_the_token_file_opens_the_admin_listener(server: ServerProcess) -> None:
    token = (server.state_dir / "admin.token").read_text().strip()
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=10)
    body = json.dumps({"feature": "nope"})
    connection.request("POST", "/v1/rollback", body, {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()

    assert response.status == 404
    assert "nope" in answer["error"]["message"]


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_scrapes_the_requirements_ten(server: ServerProcess, tmp_path: Path) -> None:
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
def test_promtool_accepts_the_page_but_for_the_requirements_own_unit(server: ServerProcess) -> None:
    page = server.get("/metrics", admin=True)[1]

    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30)

    complaints = done.stderr.decode().splitlines()
    assert complaints == ["ttft_p95_ms metric names should not contain abbreviated units"]


def test_the_snapshot_stream_ticks(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=10)
    connection.request("GET", "/v1/snapshots")
    response = connection.getresponse()
    lines = [response.readline() for _ in range(5)]
    connection.close()

    ticks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    assert len(ticks) == 2
    assert ticks[0]["schema"] == "wicketgate.snapshot/1"


@pytest.fixture
def own_server(tmp_path: Path, demo_model: Path) -> ServerProcess:
    return ServerProcess(tmp_path, config=demo_config(demo_model), root=ROOT)


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(own_server: ServerProcess) -> None:
    with own_server as server:
        text = server.config.read_text()
        server.config.write_text(text + "governor: {limit: {fixed: 7}}\n")
        wait_for(lambda: server.metric("wicketgate_concurrency_limit", kind="fixed") == 7, "the new limit")

        server.config.write_text(text + "governor: {limit: {fixed: -7}}\n")
        wait_for(lambda: server.snapshot()["config"]["error"], "the report of the bad file")

        assert "governor.limit.fixed" in server.snapshot()["config"]["error"]
        assert server.metric("wicketgate_concurrency_limit", kind="fixed") == 7


def test_a_stream_in_flight_finishes_when_the_server_is_told_to_stop(own_server: ServerProcess) -> None:
    answers: list[tuple[int, dict[str, str], bytes]] = []
    body = CHAT | {"max_tokens": 400, "stream": True, "ignore_eos": True}
    with own_server as server:
        thread = threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", body)))
        thread.start()
        wait_for(lambda: server.metric("concurrent_streams") == 1, "a stream in flight")

        code = server.stop(signal.SIGTERM)
        thread.join(30)

    assert code == 0
    assert answers[0][2].rstrip().endswith(b"data: [DONE]")
    assert b'"finish_reason":"length"' in answers[0][2]


def test_two_runtimes_do_not_share_a_state_folder(server: ServerProcess, tmp_path: Path) -> None:
    second = ServerProcess(tmp_path, config=server.config.read_text(), root=ROOT)
    second.state_dir = server.state_dir
    second.start()
    assert second.process is not None

    assert second.process.wait(30) == 4
    assert f"pid {server.process.pid}" in second.log.read_text()
