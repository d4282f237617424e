"""A server under attack and its well-behaved client, as processes: started, asked, and ended."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

HOST: Final = "127.0.0.1"
_PROC: Final = Path("/proc")


class Target:
    """
    A server process.

    Args:
        kind: "ours" or "hypercorn".
        folder: For its certificate and its log.
        options: Of the program bench/attacks/target.py.
    """

    def __init__(self, kind: str, folder: Path, **options: object) -> None:
        certificates(folder)
        self._log_path = folder / f"{kind}.log"
        self._log = self._log_path.open("wb")
        self.header_timeout_s = float(str(options.get("header_timeout_s", 5)))
        self.stall_s = float(str(options.get("stall_s", 60)))
        command = [sys.executable, "-m", "bench.attacks.target", kind, "--certificates", str(folder)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)
        ports: list[int] = json.loads(_line(self._process.stdout))
        self.port = ports[0]
        self.tls_port = ports[1] if len(ports) > 1 else 0
        self.proxy_port = ports[2] if len(ports) > 1 else 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the server."""
        _end(self._process)
        self._log.close()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return what the server has logged."""
        return self._log_path.read_text()

    def state(self) -> dict[str, Any]:
        """Ask what it has open and what it has counted."""
        state: dict[str, Any] = json.loads(self._get("/state"))
        return state

    def goaways(self) -> Counter[str]:
        """Ask how many connections were told to go away, by the reason."""
        return Counter(self.state().get("goaways", {}))

    def settle(self, is_so: Callable[[dict[str, Any]], bool], *, timeout_s: float = 5.0) -> dict[str, Any]:
        """Ask until something is so, or the time is over; returns the last answer."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            state = self.state()
            if is_so(state) or time.monotonic() >= deadline_s:
                return state
            time.sleep(0.02)

    def forget(self) -> None:
        """Look anew for the longest turn, and for the peak of memory where the system can (Linux)."""
        self._get("/forget")
        if _PROC.is_dir():
            (_PROC / str(self._process.pid) / "clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Return the most memory since `forget`; elsewhere than on Linux, what is in use now."""
        if _PROC.is_dir():
            return self._proc_bytes("VmHWM")
        asked = ["ps", "-o", "rss=", "-p", str(self._process.pid)]
        return int(subprocess.run(asked, capture_output=True, check=True).stdout) * 1024

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _proc_bytes(self, name: str) -> int:
        for line in (_PROC / str(self._process.pid) / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
        raise LookupError(name)


class Beside:
    """
    The well-behaved client's process.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "bench.attacks.neighbour", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.take()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        _end(self._process)

    def take(self) -> dict[str, Any]:
        """Return what it has measured since the last call: delays_ms, waiting_ms, failures."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        taken: dict[str, Any] = json.loads(_line(self._process.stdout))
        return taken


def certificates(folder: Path) -> None:
    """Write a certificate of 127.0.0.1 and its key."""
    issued = trustme.CA().issue_cert(HOST)
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))


def _line(output: IO[bytes] | None) -> bytes:
    assert output is not None
    line = output.readline()
    if not line:
        raise RuntimeError("the process ended before it said anything")
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.kill()
    process.wait()
