"""
What the HTTP/2 edge costs, beside stock hypercorn and uvicorn in the same run: `python -m bench.edge`.

The bars of the transport that a synthetic producer can show: cost and latency of events, packets and bytes,
the price of connecting, a thousand streams, a slow reader, memory. Servers take turns within each repeat;
figures are medians.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import trustme

from bench import h1_client, h2_client
from bench.h2_streams import MAX_WINDOW
from bench.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Figures = dict[str, float]

HOST: Final = "127.0.0.1"
STREAMS: Final = 75
_MADE: Final = re.compile(rb'"t":(\d+),"n":"([\d,]+)"')


class Server:
    """One server process."""

    def __init__(self, kind: str, *, python: str, files: Path, is_tls: bool, period_s: float) -> None:
        self.kind = kind
        self.tls: ssl.SSLContext | None = None
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        words = [
            python,
            "-m",
            "bench.edge_servers",
            kind,
            "--port",
            str(self.port),
            "--period-s",
            str(period_s),
        ]
        if is_tls:
            words += ["--certificate", str(files / "chain.pem"), "--key", str(files / "key.pem")]
            self.tls = ssl.create_default_context(cafile=str(files / "ca.pem"))
            self.tls.set_alpn_protocols(["http/1.1"] if kind == "uvicorn" else ["h2"])
        self._child = subprocess.Popen(words)
        self._wait()

    @property
    def is_h1(self) -> bool:
        """Whether it speaks HTTP/1.1."""
        return self.kind == "uvicorn"

    def connect(self, *, window: int = MAX_WINDOW) -> h2_client.Connection:
        """Open an HTTP/2 connection."""
        return h2_client.Connection(HOST, self.port, tls=self.tls, window=window)

    def stream(self, path: str) -> h1_client.Stream:
        """Open an HTTP/1.1 connection with a request."""
        return h1_client.Stream(HOST, self.port, path, tls=self.tls)

    def ask(self, path: str) -> float:
        """Return a number that the server tells."""
        if self.is_h1:
            stream = self.stream(path)
            stream.raw_socket.settimeout(5)
            text = b""
            while b"\r\n\r\n" not in text or not text.endswith(h1_client.END):
                text += stream.raw_socket.recv(65_536)
            stream.raw_socket.close()
            return float(text.partition(b"\r\n\r\n")[2].split(b"\r\n")[1])
        with self.connect() as connection:
            answer = connection.post(path, b"")
            h2_client.finish([connection], timeout_s=5)
            return float(b"".join(data for _, data in answer.chunks))

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()

    def _wait(self) -> None:
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline_s or self._child.poll() is not None:
                    raise
                time.sleep(0.05)


class Bench:
    """Starts servers, and takes each figure from each in turn."""

    def __init__(self, args: argparse.Namespace, files: Path) -> None:
        self._args = args
        self._files = files

    @contextmanager
    def server(self, kind: str, *, is_tls: bool = False, period_s: float = 0.025) -> Iterator[Server]:
        """Run a server for a while."""
        python = self._args.uvicorn_python if kind == "uvicorn" else sys.executable
        made = Server(kind, python=python, files=self._files, is_tls=is_tls, period_s=period_s)
        try:
            yield made
        finally:
            made.close()

    def medians(self, kinds: Sequence[str], measure: Callable[[str], Figures]) -> dict[str, Figures]:
        """Measure each kind in turn, again and again; returns the median of each figure."""
        taken: dict[str, list[Figures]] = {kind: [] for kind in kinds}
        for _ in range(self._args.repeats):
            for kind in kinds:
                taken[kind].append(measure(kind))
        return {
            kind: {name: quantile([each[name] for each in runs], 0.5) for name in runs[0]}
            for kind, runs in taken.items()
        }

    def paced(self, kind: str) -> Figures:
        """Bars 1 and 2: 75 streams, 40 events a second each, all at once."""
        events = int(self._args.seconds * 40)
        with self.server(kind) as server:
            before_s = server.ask("/cpu")
            chunks = _run(server, events)
            cpu_s = server.ask("/cpu") - before_s
        delays_ms, count = _delays(chunks)
        return {
            "us_per_event": cpu_s / count * 1e6,
            "p50_ms": quantile(delays_ms, 0.5),
            "p99_ms": quantile(delays_ms, 0.99),
            "lost": STREAMS * events - count,
        }

    def packets(self, kind: str) -> Figures:
        """Bars 3 to 5, over TLS: packets and bytes of 40 events a stream, and the price of connecting."""
        with self.server(kind, is_tls=True) as server:
            first_s = server.ask("/cpu")
            before_s = server.ask("/cpu")
            started_s = time.monotonic()
            _hello(server)
            connect_ms = (time.monotonic() - started_s) * 1e3
            # To ask takes a connection too, which is not part of the figure.
            connect_cpu_ms = (server.ask("/cpu") - before_s - (before_s - first_s)) * 1e3
            sockets: list[socket.socket] = []
            chunks = _run(server, 40, sockets)
            packets = sum(_tcp(each)[0] for each in sockets)
            sent = sum(_tcp(each)[1] for each in sockets)
        _, count = _delays(chunks)
        return {
            "packets_per_event": packets / count,
            "bytes_per_event": (sent + packets * 52) / count,
            "connect_ms": connect_ms,
            "connect_cpu_ms": connect_cpu_ms,
        }

    def thousand(self, kind: str) -> Figures:
        """Bar 6: 1,000 streams on 10 connections, 10 events a second each."""
        events = int(self._args.seconds * 10)
        with self.server(kind, period_s=0.1) as server:
            connections = [server.connect() for _ in range(10)]
            streams = [each.post(f"/steps?events={events}", b"") for each in connections for _ in range(100)]
            h2_client.finish(connections, timeout_s=self._args.seconds + 30)
            delays_ms, count = _delays([stream.chunks for stream in streams])
            for each in connections:
                each.close()
        return {
            "p50_ms": quantile(delays_ms, 0.5),
            "p99_ms": quantile(delays_ms, 0.99),
            "lost": 1000 * events - count,
        }

    def slow(self, kind: str) -> Figures:
        """Bar 10: a reader of 1 KB/s beside 74 fast ones; then it reads the rest, and all must have come."""
        events = int(self._args.seconds * 40)
        with self.server(kind) as server:
            alone_ms, _ = _delays(_run(server, events, streams=STREAMS - 1))
            before = server.ask("/rss")
            slow, fast = server.connect(window=1024), server.connect()
            behind = slow.post(f"/steps?events={events}", b"")
            slow.flush()
            streams = [fast.post(f"/steps?events={events}", b"") for _ in range(STREAMS - 1)]
            opened = [time.monotonic()]

            def is_done() -> bool:
                if time.monotonic() - opened[0] >= 1:
                    slow.open(behind, 1024)
                    opened[0] += 1
                return not fast.live

            h2_client.wait([fast, slow], until=is_done, timeout_s=self._args.seconds + 30)
            grown = server.ask("/rss") - before
            beside_ms, _ = _delays([stream.chunks for stream in streams])
            slow.open(behind, 2**30)
            h2_client.finish([slow], timeout_s=10)
            text = b"".join(data for _, data in behind.chunks)
            numbers = [int(each) for _, group in _MADE.findall(text) for each in group.split(b",")]
            slow.close()
            fast.close()
        return {
            "p99_ratio": quantile(beside_ms, 0.99) / quantile(alone_ms, 0.99),
            "memory_kb": grown / 1024,
            "is_complete": float(numbers == list(range(events))),
        }

    def memory(self, kind: str) -> Figures:
        """Bar 11: what a stream more costs, from 200 to 2,000 open ones on ten connections."""
        with self.server(kind) as server:
            connections = [server.connect() for _ in range(10)]
            streams = [each.post("/hold", b"") for each in connections for _ in range(20)]
            h2_client.wait(connections, until=lambda: all(each.chunks for each in streams), timeout_s=30)
            before = server.ask("/rss")
            streams += [each.post("/hold", b"") for each in connections for _ in range(180)]
            h2_client.wait(connections, until=lambda: all(each.chunks for each in streams), timeout_s=60)
            after = server.ask("/rss")
            for each in connections:
                each.close()
        return {"kb_per_stream": (after - before) / 1800 / 1024}


def _run(
    server: Server, events: int, sockets: list[socket.socket] | None = None, *, streams: int = STREAMS
) -> list[list[tuple[float, bytes]]]:
    path = f"/steps?events={events}"
    timeout_s = events * 0.025 + 30
    if server.is_h1:
        opened = [server.stream(path) for _ in range(streams)]
        h1_client.finish(opened, timeout_s=timeout_s)
        if sockets is not None:
            sockets += [each.raw_socket for each in opened]
        return [each.chunks for each in opened]
    connection = server.connect()
    asked = [connection.post(path, b"") for _ in range(streams)]
    h2_client.finish([connection], timeout_s=timeout_s)
    if sockets is not None:
        sockets.append(connection.raw_socket)
    return [each.chunks for each in asked]


def _hello(server: Server) -> None:
    """Connect for all streams, and have one answer on each."""
    if server.is_h1:
        opened = [server.stream("/hello") for _ in range(STREAMS)]
        h1_client.finish(opened, timeout_s=20)
        for each in opened:
            each.raw_socket.close()
        return
    with server.connect() as connection:
        for _ in range(STREAMS):
            connection.post("/hello", b"")
        h2_client.finish([connection], timeout_s=20)


def _delays(streams: Sequence[Sequence[tuple[float, bytes]]]) -> tuple[list[float], int]:
    """
    Return how long after it was made each event arrived, in ms, and how many came in all.

    The delays are of the events that were made when all streams ran: while they are still being opened, what
    arrives late waits for requests.
    """
    taken = [
        [(at_s, int(made_ns) / 1e9) for at_s, data in chunks for made_ns, _ in _MADE.findall(data)]
        for chunks in streams
    ]
    open_s = max(events[0][0] for events in taken)
    delays = [(at_s - made_s) * 1e3 for events in taken for at_s, made_s in events if made_s > open_s]
    return delays, sum(map(len, taken))


def _tcp(sock: socket.socket) -> tuple[int, int]:
    """Return packets and payload bytes, both ways (Linux' struct tcp_info)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    acked, received, out, back = struct.unpack_from("=QQII", info, 120)
    return out + back, acked + received


def _certificates(folder: Path, key_type: trustme.KeyType) -> None:
    authority = trustme.CA(key_type=key_type)
    leaf = authority.issue_cert(HOST, key_type=key_type)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(leaf.cert_chain_pems):
        part.write_to_path(folder / "chain.pem", append=number > 0)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uvicorn-python", help="an interpreter that has uvicorn, uvloop and httptools")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each paced run")
    parser.add_argument("--key", choices=["ECDSA", "RSA"], default="ECDSA", help="of the TLS certificate")
    parser.add_argument("--only", nargs="*", default=["paced", "packets", "thousand", "slow", "memory"])
    args = parser.parse_args()
    rival = ["uvicorn"] if args.uvicorn_python else []
    kinds = {
        "paced": ["direct", "ours", "hypercorn", *rival],
        "packets": ["direct", "hypercorn", *rival],
        "thousand": ["direct", "ours", "hypercorn"],
        "slow": ["direct"],
        "memory": ["ours", "hypercorn"],
    }
    with TemporaryDirectory() as folder:
        _certificates(Path(folder), trustme.KeyType[args.key])
        bench = Bench(args, Path(folder))
        found = {name: bench.medians(kinds[name], getattr(bench, name)) for name in args.only}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
