"""A control socket in front of a real board, as the runtime's admin application has it."""

from __future__ import annotations

import json
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

from wicketgate.errors import NotFoundError
from wicketgate.flags import RollbackNotDurableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rollout.verdict import Judged
    from wicketgate.flags import FlagBoard


class Gateway(ThreadingUnixStreamServer):
    """
    Answers what commands ask.

    Args:
        path: Where it listens.
        board: What it tells of, and changes.
        snapshot: Told beside the features at `GET /v1/snapshot`.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, path: Path, board: FlagBoard, *, snapshot: Mapping[str, Any] | None = None) -> None:
        self.board = board
        self.snapshot = snapshot or {}
        self.judged: dict[str, Judged] = {}
        """What the guards of features have seen, as its controllers would tell it."""
        self.asked = 0
        """How many questions were answered."""
        super().__init__(str(path), _Answers)


class JsonAnswers(BaseHTTPRequestHandler):
    """Answers with JSON on a Unix socket, and says nothing on stderr."""

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""

    def address_string(self) -> str:
        return "local"


class _Answers(JsonAnswers):
    server: Gateway

    def do_GET(self) -> None:
        board = self.server.board
        self.server.asked += 1
        rows = [{**row, "in_flight_on": 3} for row in board.describe(judged=self.server.judged)]
        if self.path == "/v1/rollout":
            self._answer(200, {"schema": "wicketgate.rollout/1", "ok": True, "features": rows})
        else:
            self._answer(200, {**self.server.snapshot, "rollouts": rows})

    def do_POST(self) -> None:
        board = self.server.board
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        who = {"actor": body["actor"], "reason": body["reason"]}
        try:
            if self.path == "/v1/kill":
                done = board.persist(board.kill(**who))
            else:
                done = board.rollback(body["feature"], **who)
        except NotFoundError as error:
            self._answer(404, {"error": {"message": error.message}})
            return
        except RollbackNotDurableError as error:
            self._answer(500, {"error": {"message": error.message, "code": error.code}})
            return
        rows = [{**asdict(each), "in_flight_on": 14} for each in done.features]
        times = {"flip_s": done.flip_s, "durable_s": done.durable_s, "revision": done.revision}
        self._answer(200, {"features": rows, **times})
