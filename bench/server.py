"""A `wicketgate serve` of our own: started on free ports, asked, reconfigured, stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.h2_client import Connection
from bench.prompts import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
STOP_S: Final = 15.0
_POLL_S: Final = 0.01
_ASK_S: Final = 10.0


class ServerError(RuntimeError):
    """The server did not start, or did not do what it was asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command line that was run to its end."""

    code: int
    wall_s: float
    """From before its process was made until it had ended."""
    out: str
    err: str


class Server:
    """
    One gateway on one model, which clients call `demo`.

    Args:
        folder: For its configuration, state and log.
        config: What the configuration file says besides the model.
        model: The model's folder.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], *, model: Path = MODEL) -> None:
        self.folder = folder
        self._model = model
        self.file = folder / "runtime.yaml"
        self.log = folder / "serve.log"
        self.state_dir = folder / "state"
        self._reloads = 0.0
        self.port, self.admin_port = free_port(), free_port()
        self._write(config)
        began_s = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "wicketgate", "serve", "--config", str(self.file)),
                    *("--state-dir", str(self.state_dir)),
                    *("--port", str(self.port), "--admin-port", str(self.admin_port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.wait_ready()
        except ServerError:
            self.stop()
            raise
        self.start_to_ready_s = time.monotonic() - began_s
        """From before its process was made until /health/ready said 200."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the gateway."""
        return self._process.pid

    @property
    def host_pid(self) -> int | None:
        """Process id of its engine host, None while there is none."""
        pid = self.snapshot()["engine"]["pid"]
        return None if pid is None else int(pid)

    def stop(self) -> int:
        """End it with SIGTERM, by force if it does not drain in time; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                return self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def connect(self) -> Connection:
        """Open an HTTP/2 connection to it."""
        return Connection(HOST, self.port)

    def readiness(self) -> int:
        """Return the status of /health/ready; 0 when nobody answers."""
        try:
            return self.get(self.port, "/health/ready")[0]
        except (OSError, http.client.HTTPException):
            return 0

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """
        Wait until it can serve.

        Raises:
            ServerError: it ended, or took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.readiness() != http.HTTPStatus.OK:
            if self._process.poll() is not None:
                raise ServerError(
                    f"the server ended with exit code {self._process.returncode}: {self._said()}"
                )
            if time.monotonic() > deadline_s:
                raise ServerError(f"the server was not ready within {timeout_s:g} s: {self._said()}")
            time.sleep(_POLL_S)

    def snapshot(self) -> dict[str, Any]:
        """Return what is true now, as `wicketgate status --json` shows it."""
        document: dict[str, Any] = json.loads(self.get(self.admin_port, "/v1/snapshot")[1])
        return document

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its name, labels included."""
        lines = self.get(self.admin_port, "/metrics")[1].decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return its log lines of one event, oldest first: `request`, `flags_changed`, ..."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def reconfigure(self, config: Mapping[str, object], *, timeout_s: float = 5.0) -> None:
        """
        Write another configuration and wait until it is in force; only hot keys may differ.

        Raises:
            ServerError: it was not taken up.
        """
        applied = 'wicketgate_config_reloads_total{result="applied"}'
        before = self.metrics()[applied]
        self._write(config)
        deadline_s = time.monotonic() + timeout_s
        while self.metrics()[applied] == before:
            if time.monotonic() > deadline_s:
                raise ServerError(f"the configuration was not taken up: {self._said()}")
            time.sleep(_POLL_S)

    def command(self, *words: str) -> Ran:
        """Run `wicketgate WORDS --json` about this server, as an installed one runs: from bytecode."""
        # An installer writes bytecode; a checkout under PYTHONDONTWRITEBYTECODE compiles us at every start.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began_s = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "wicketgate",
                *words,
                "--json",
                "--state-dir",
                str(self.state_dir),
            ],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
            # Elsewhere another runtime's configuration might lie around.
            cwd=self.folder,
            env=environment,
        )
        wall_s = time.monotonic() - began_s
        return Ran(code=done.returncode, wall_s=wall_s, out=done.stdout, err=done.stderr)

    def _write(self, config: Mapping[str, object]) -> None:
        # JSON is YAML. Renamed into place: the gateway must never read half a file.
        draft = self.file.with_suffix(".new")
        draft.write_text(
            json.dumps({"models": [{"id": "demo", "path": str(self._model)}], **config}), encoding="utf-8"
        )
        draft.replace(self.file)

    def get(self, port: int, path: str) -> tuple[int, bytes]:
        """Ask one of its listeners; returns status and body."""
        connection = http.client.HTTPConnection(HOST, port, timeout=_ASK_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-1000:]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
