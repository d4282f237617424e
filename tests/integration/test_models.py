"""Pins several models behind one real gateway: on demand, swapped, one drained while the other streams on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server import Gateway
from wicketgate import demo
from wicketgate.weights import weights_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(demo.__path__[0]) / "model"
ONE_AND_A_HALF = int(1.5 * weights_bytes(FOLDER))
SWAP_S = 30.0


def configuration(**engine: object) -> dict[str, object]:
    """Return the demo model under three names: a at the start, b and c on demand."""
    entries = [{"id": name, "path": str(FOLDER), "load": load} for name, load in NAMES.items()]
    return {"models": entries, "engine": engine, "logs": {"requests": False}}


NAMES = {"a": "start", "b": "demand", "c": "demand"}


class Models(Gateway):
    """A gateway with several models."""

    def states(self) -> dict[str, str]:
        return {str(row["id"]): str(row["state"]) for row in self.snapshot()["models"]}

    def pid_of(self, name: str) -> int | None:
        return next(row["pid"] for row in self.snapshot()["models"] if row["id"] == name)

    def complete(self, model: str, **more: object) -> dict[str, Any]:
        """Ask for a completion; returns the parsed answer, or fails with it."""
        body = {"model": model, "prompt": "The river", "max_tokens": 8, "temperature": 0, "seed": 7, **more}
        status, _, answer = self.post("/v1/completions", body)
        assert status == 200, answer
        return json.loads(answer)

    def operate(self, verb: str, name: str) -> int:
        token = (self.state_dir / "admin.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        return self.post(f"/v1/engine/models/{name}/{verb}", {}, headers, admin=True)[0]

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Look at the snapshot until the condition holds."""
        end_s = time.monotonic() + SWAP_S
        pause = threading.Event()
        while not condition(snapshot := self.snapshot()):
            assert time.monotonic() < end_s, snapshot["models"]
            pause.wait(0.02)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Three models without a bound; every test leaves a loaded and may leave the others as they are."""
    with Models(tmp_path_factory.mktemp("models"), configuration(kind="simulated")) as running:
        yield running


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Three real models of which one fits at a time."""
    engine = configuration(models_max_bytes=ONE_AND_A_HALF, speculation={"mode": "off"})
    with Models(tmp_path_factory.mktemp("bounded"), engine) as running:
        yield running


class Stream:
    """A streamed answer read by a thread."""

    def __init__(self, server: Models, model: str, *, tokens: int) -> None:
        self.body = {
            "model": model,
            "prompt": "The river",
            "max_tokens": tokens,
            "temperature": 0,
            "seed": 7,
            "ignore_eos": True,
            "stream": True,
        }
        self.answer = (0, b"")
        self._server = server
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        status, _, answer = self._server.post("/v1/completions", self.body)
        self.answer = (status, answer)

    def join(self) -> tuple[int, bytes]:
        self._thread.join(60)
        return self.answer

    @property
    def text(self) -> str:
        """All text of the answer."""
        events = self.answer[1].decode().split("\n\n")
        data = [event.removeprefix("data: ") for event in events if event.startswith("data: {")]
        return "".join(json.loads(each)["choices"][0]["text"] for each in data)


def test_all_models_are_listed_whether_loaded_or_not(models: Models) -> None:
    listed = json.loads(models.get(models.port, "/v1/models")[1])["data"]

    assert [row["id"] for row in listed] == ["a", "b", "c"]


def test_the_first_request_loads_a_model_on_demand(models: Models) -> None:
    before = models.states()["b"]

    answer = models.complete("b")

    assert (before, models.states()["b"], answer["model"]) == ("unloaded", "ready", "b")
    assert models.pid_of("a") != models.pid_of("b")


def test_an_unload_drains_the_models_own_stream_and_leaves_the_others_alone(models: Models) -> None:
    alone = models.complete("a", max_tokens=60, ignore_eos=True)["choices"][0]["text"]
    models.complete("b")
    host = models.pid_of("a")
    mine, other = Stream(models, "b", tokens=60), Stream(models, "a", tokens=60)
    models.wait_until(lambda snapshot: sum(row["in_use"] for row in snapshot["models"]) == 2)

    assert models.operate("unload", "b") == 200
    models.wait_until(lambda _: models.states()["b"] == "unloaded")

    for stream in (mine, other):
        status, answer = stream.join()
        assert status == 200
        assert answer.rstrip().endswith(b"data: [DONE]")
        assert b'"finish_reason":"length"' in answer
    assert (models.pid_of("a"), models.pid_of("b")) == (host, None)
    assert len(alone) > 60
    assert mine.text == other.text == alone


def test_metrics_carry_the_models_names(models: Models) -> None:
    models.complete("b")

    metrics = models.metrics()

    key = 'wicketgate_requests_total{{class="interactive",model="{}",outcome="ok"}}'
    assert metrics[key.format("b")] >= 1
    assert metrics[key.format("c")] == 0
    assert metrics["wicketgate_models_loaded"] == 2


def test_the_command_line_swaps_models(models: Models) -> None:
    loaded = models.command("model", "load", "c", "--wait")
    unloaded = models.command("model", "unload", "c", "--wait")

    assert [json.loads(each.out)["model"]["state"] for each in (loaded, unloaded)] == ["ready", "unloaded"]


def test_an_unknown_model_is_refused_by_the_command_line(models: Models) -> None:
    done = models.command("model", "load", "zebra")

    assert done.code == 2
    assert "zebra" in json.loads(done.out)["error"]["message"]


def test_a_model_that_does_not_fit_takes_the_idle_ones_place_and_swaps_in_time(bounded: Models) -> None:
    text = bounded.complete("a")["choices"][0]["text"]
    began_s = time.monotonic()

    answer = bounded.complete("b")

    assert time.monotonic() - began_s < SWAP_S
    assert answer["choices"][0]["text"] == text
    assert (bounded.states()["a"], bounded.states()["b"]) == ("unloaded", "ready")


def test_a_model_that_streams_is_not_taken_from_its_stream(bounded: Models) -> None:
    bounded.complete("a")
    stream = Stream(bounded, "a", tokens=300)
    bounded.wait_until(lambda snapshot: snapshot["flow"]["in_flight"] == 1)

    answer = bounded.complete("c")

    status, told = stream.join()
    assert (status, answer["model"]) == (200, "c")
    assert b'"finish_reason":"length"' in told
