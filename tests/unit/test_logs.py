"""A log line is one JSON object with a constant event name and the fields of `extra`."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from wicketgate import logs
from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_line_holds_the_event_and_its_fields() -> None:
    record = logging.makeLogRecord({"msg": "limit_changed", "levelname": "INFO", "name": "x", "limit": 3})

    line = json.loads(logs.JsonLines().format(record))

    assert (line["event"], line["level"], line["logger"], line["limit"]) == ("limit_changed", "info", "x", 3)
    assert line["at"].endswith("+00:00")


def test_an_exception_is_in_its_line() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        record = logging.makeLogRecord({"msg": "task_failed", "exc_info": sys.exc_info()})

    line = json.loads(logs.JsonLines().format(record))

    assert "KeyError: 'lost'" in line["exception"]


def test_a_file_is_private_and_gets_the_lines(tmp_path: Path) -> None:
    file = tmp_path / "wicketgate.log"

    with logs.written(level="info", file=file):
        logging.getLogger("some").info("started", extra={"port": 1})

    assert json.loads(file.read_text())["port"] == 1
    assert file.stat().st_mode & 0o777 == 0o600


def test_lines_of_requests_go_to_their_own_file(tmp_path: Path) -> None:
    file, requests = tmp_path / "all.log", tmp_path / "requests.log"

    with logs.written(level="info", file=file, requests_file=requests):
        logging.getLogger("some").info("started")
        logging.getLogger(logs.REQUESTS).info("request")

    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["started"]
    assert [json.loads(line)["event"] for line in requests.read_text().splitlines()] == ["request"]


def test_after_the_block_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "all.log"
    level = logging.getLogger().level
    with logs.written(level="debug", file=file, requests_file=tmp_path / "requests.log"):
        pass

    logging.getLogger(logs.REQUESTS).warning("late")

    assert file.read_text() == ""
    assert logging.getLogger(logs.REQUESTS).propagate
    assert logging.getLogger().level == level


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="nowhere/requests"),
        logs.written(
            level="info", file=tmp_path / "all.log", requests_file=tmp_path / "nowhere" / "requests"
        ),
    ):
        pass
