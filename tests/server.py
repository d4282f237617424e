"""A really started `wicketgate serve`, for tests that use it as its users do."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

from wicketgate.platform import control_socket_path

if TYPE_CHECKING:
    from pathlib import Path

START_S = 60.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One gateway with its own state folder and ports; a context manager that stops it with SIGTERM."""

    def __init__(self, folder: Path, *, config: str, root: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.port, self.admin_port = free_port(), free_port()
        self.config = folder / "runtime.yaml"
        self.config.write_text(config)
        self.log = folder / "server.log"
        self._root = root
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def control_socket(self) -> Path:
        return control_socket_path(self.state_dir)

    def __enter__(self) -> ServerProcess:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "-m", "wicketgate", "serve", "--config", str(self.config)]
        command += ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        command += ["--state-dir", str(self.state_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self._root, stdout=log, stderr=log)

    def wait_ready(self, deadline_s: float = START_S) -> None:
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the server ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            if self.health("ready") == 200:
                return
            select.select([], [], [], 0.05)
        raise AssertionError(f"not ready within {deadline_s} s:\n{self.log.read_text()}")

    def health(self, probe: str) -> int:
        try:
            return self.get(f"/health/{probe}")[0]
        except OSError:
            return 0

    def get(self, path: str, *, admin: bool = False) -> tuple[int, bytes]:
        port = self.admin_port if admin else self.port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def post(
        self, path: str, body: object, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", path, data, {"content-type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def snapshot(self) -> dict:  # type: ignore[type-arg]
        return json.loads(self.get("/v1/snapshot", admin=True)[1])

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample, the first whose labels contain those given."""
        for line in self.get("/metrics", admin=True)[1].decode().splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                return float(value)
        raise AssertionError(f"no sample of {name} {labels}")

    def command(self, *words: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a `wicketgate` command against this server's state folder."""
        return subprocess.run(
            [sys.executable, "-m", "wicketgate", *words, "--state-dir", str(self.state_dir)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={key: value for key, value in os.environ.items() if key != "WICKETGATE_CONFIG"},
        )

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 45) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.exit_code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return self.exit_code
