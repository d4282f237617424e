"""
Pins the facts of hypercorn that transport/http1.py stands on.

When one of these fails after an upgrade, read transport/http1.py and wicketgate/api/exchange.py again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import logging

import h11
import pytest
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

pytestmark = pytest.mark.anyio
GET = b"GET /a%20b?c HTTP/1.1\r\nHost: x\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


class Shell:
    """What a protocol is given: somebody who writes, and somebody who starts applications."""

    def __init__(self):
        self.config = Config()
        self.config.include_date_header = self.config.include_server_header = False
        self.events, self.scopes, self.messages, self.sends = [], [], [], []
        args = (self.config, WorkerContext(None), self, {}, True, ("192.0.2.7", 1), ("192.0.2.1", 443))
        self.protocol = H11Protocol(None, *args, self.take)

    async def take(self, event):
        self.events.append(event)

    async def spawn_app(self, app, config, scope, send):
        self.scopes.append(scope)
        self.sends.append(send)

        async def put(message):
            self.messages.append(message)

        return put

    def written(self):
        return b"".join(event.data for event in self.events if isinstance(event, RawData))

    def others(self):
        return [event for event in self.events if not isinstance(event, RawData)]


def test_the_version_is_the_one_that_was_read():
    assert importlib.metadata.version("hypercorn").startswith("0.18.")


def test_a_protocol_is_made_of_nine_things():
    names = list(inspect.signature(H11Protocol.__init__).parameters)

    assert names == [
        *("self", "app", "config", "context", "task_group", "connection_state"),
        *("ssl", "client", "server", "send"),
    ]


def test_the_settings_that_are_set_exist():
    config = Config()

    assert config.keep_alive_max_requests == 1000
    assert config.h11_max_incomplete_size == 16 * 1024
    assert (config.accesslog, config.include_server_header) == (None, True)


def test_a_logger_is_taken_for_the_error_log():
    config = Config()
    config.errorlog = logging.getLogger("test")

    assert config.log.error_logger is config.errorlog
    assert config.log.access_logger is None


async def test_a_request_starts_an_application_through_the_task_group_alone():
    shell = Shell()

    await shell.protocol.handle(RawData(GET))

    (scope,) = shell.scopes
    assert (scope["type"], scope["path"], scope["query_string"]) == ("http", "/a b", b"c")
    assert (scope["client"], scope["server"], scope["scheme"]) == (
        ("192.0.2.7", 1),
        ("192.0.2.1", 443),
        "https",
    )
    assert scope["extensions"] == {}
    assert shell.messages == [{"type": "http.request", "body": b"", "more_body": False}]


async def test_the_begin_and_the_end_of_a_request_are_told():
    shell = Shell()
    await shell.protocol.handle(RawData(GET))
    (send,) = shell.sends
    assert shell.others() == [Updated(idle=False)]

    await send(START)
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})
    await send(None)

    assert shell.others() == [Updated(idle=False), Updated(idle=True)]
    assert shell.written() == b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"
    assert shell.messages[-1] == {"type": "http.disconnect"}


async def test_an_answer_may_be_written_to_its_end_by_h11_itself():
    shell = Shell()
    await shell.protocol.handle(RawData(GET))
    (send,) = shell.sends
    await send({**START, "headers": []})

    body = shell.protocol.connection.send(h11.Data(data=b"ok"))
    end = shell.protocol.connection.send(h11.EndOfMessage())
    await send(None)

    assert (body, end) == (b"2\r\nok\r\n", b"0\r\n\r\n")
    assert shell.others()[-1] == Updated(idle=True)


async def test_an_answer_that_is_not_ended_closes_the_connection():
    shell = Shell()
    await shell.protocol.handle(RawData(GET))
    (send,) = shell.sends
    await send(START)

    await send(None)

    assert shell.others()[-1] == Closed()


async def test_without_an_answer_it_is_500():
    shell = Shell()
    await shell.protocol.handle(RawData(GET))

    await shell.sends[0](None)

    assert shell.written().startswith(b"HTTP/1.1 500")


async def test_no_more_requests_than_allowed_makes_the_answer_say_close():
    shell = Shell()
    shell.config.keep_alive_max_requests = 0
    await shell.protocol.handle(RawData(GET))

    await shell.sends[0](START)

    assert b"\r\nconnection: close\r\n" in shell.written().lower()


async def test_a_second_request_waits_for_the_answer_to_the_first():
    shell = Shell()
    reading = asyncio.create_task(shell.protocol.handle(RawData(GET + GET)))
    await asyncio.sleep(0)
    assert len(shell.scopes) == 1

    await shell.sends[0](START)
    await shell.sends[0]({"type": "http.response.body", "body": b"ok", "more_body": False})
    await reading

    assert len(shell.scopes) == 2


async def test_what_is_no_request_is_answered_and_closed():
    shell = Shell()

    await shell.protocol.handle(RawData(b"rubbish\r\n\r\n"))

    assert shell.written().startswith(b"HTTP/1.1 400")
    assert shell.others() == [Closed()]
    assert shell.protocol.connection.their_state is h11.ERROR


def test_the_way_to_http2_that_is_closed_is_still_the_one():
    """`_H11` overrides it; if it were renamed, an Upgrade would be followed again."""
    assert inspect.iscoroutinefunction(H11Protocol._check_protocol)
