"""
The flags of a runtime through OpenFeature's own Python: our provider on a ledger, OFREP on an admin listener.

Both packages are real; where one is not installed its tests are skipped.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rollout.assignment import FlagSnapshot
from rollout.bucketing import VERSION, bucket, is_on
from rollout.latch import rolled_back
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import Input, Phase, State, apply
from tests.conftest import ROOT
from transport.server import EdgeServer, ServerParams
from wicketgate.api.admin.app import Guard, create_admin_app
from wicketgate.api.ofrep import ofrep_routes
from wicketgate.config import ConfigurationFaultsError
from wicketgate.ledger import FILE_NAME, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEYS = [f"sess-{number}" for number in range(50)]
DEADLINE_S = 10.0
FEATURES: dict[str, Any] = {
    "ttft_pipeline": {"enabled": True, "mode": "staged"},
    "adaptive_governor": {"enabled": True, "rollout_percentage": 30},
    "http2_transport": {"enabled": True, "rollout_percentage": 50},
    "qos_monitoring": {"enabled": True},
}


def spec() -> Spec:
    """Declare what FEATURES does."""
    return Spec(
        features={
            "ttft_pipeline": Feature(name="ttft_pipeline", mode=Mode.STAGED),
            "adaptive_governor": Feature(name="adaptive_governor", rollout_percentage=30),
            "http2_transport": Feature(name="http2_transport", rollout_percentage=50, key=Key.CONNECTION),
            "qos_monitoring": Feature(name="qos_monitoring"),
        }
    )


class Runtime:
    """What a runtime has on disk: its configuration and its ledger, changed as its commands change them."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "runtime.yaml"
        self.ledger = Ledger(folder / "state" / FILE_NAME)
        self.declare(FEATURES)

    def declare(self, features: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump({"state_dir": "state", "phase4_rollout": features}))

    def start_at(self, stage: str) -> None:
        started = apply(
            State(feature="ttft_pipeline"),
            Input.START,
            spec=spec(),
            now_unix_s=1.0,
            actor="a",
            at_stage=stage,
        )
        self._write(started.document(), "start")

    def roll_back(self) -> None:
        row = self.ledger.read().rows["ttft_pipeline"]
        self._write(rolled_back(row.document, now_unix_s=2.0, actor="a", reason="INC-1") or {}, "rollback")

    def _write(self, document: dict[str, object], action: str) -> None:
        self.ledger.change(["ttft_pipeline"], lambda *_: document, action=action, actor="a", reason="INC-1")


class Heard:
    """Collects events, and waits for one."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._came = threading.Condition()

    def __call__(self, event: Any) -> None:
        with self._came:
            self._events.append(event)
            self._came.notify_all()

    def wait(self, fits: Callable[[Any], object]) -> bool:
        with self._came:
            return self._came.wait_for(lambda: any(map(fits, self._events)), timeout=DEADLINE_S)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Lay down a runtime whose staged feature is at 50 %."""
    made = Runtime(tmp_path)
    made.start_at("mid")
    return made


@pytest.fixture
def api() -> Iterator[Any]:
    """Hand out the SDK, and leave it without providers."""
    api = pytest.importorskip("openfeature.api")
    yield api
    api.clear_providers()


@pytest.fixture
def client(api: Any, runtime: Runtime) -> Any:
    """Return a client of our provider."""
    from wicketgate.openfeature import RuntimeProvider

    api.set_provider_and_wait(RuntimeProvider(config=runtime.config, poll_s=0.01))
    return api.get_client()


def context(key: str | None = None, **attributes: Any) -> Any:
    from openfeature.evaluation_context import EvaluationContext

    return EvaluationContext(targeting_key=key, attributes=attributes)


def test_without_the_sdk_the_import_says_what_to_install() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['openfeature'] = None; import wicketgate.openfeature",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: wicketgate.openfeature needs the OpenFeature SDK: pip install 'wicketgate[openfeature]'"
    )


def test_the_provider_decides_as_the_gateway_does(client: Any) -> None:
    decided = [client.get_boolean_value("ttft_pipeline", False, context(key)) for key in KEYS]

    assert decided == [is_on(bucket("ttft_pipeline", key), 50_000) for key in KEYS]
    assert set(decided) == {True, False}


def test_the_provider_tells_reason_variant_and_metadata(client: Any) -> None:
    details = client.get_boolean_details("ttft_pipeline", False, context("sess-1"))

    assert (details.reason, details.error_code) == ("SPLIT", None)
    assert details.variant == ("on" if details.value else "off")
    assert details.flag_metadata == {
        "revision": 1,
        "stage": "mid",
        "bucket": bucket("ttft_pipeline", "sess-1"),
        "bucketing": VERSION,
        "cause": "stage",
    }


def test_the_provider_takes_a_connection_from_the_context(client: Any) -> None:
    details = client.get_boolean_details("http2_transport", False, context(connection="127.0.0.1:5"))

    assert details.value == is_on(bucket("http2_transport", "127.0.0.1:5"), 50_000)


@pytest.mark.parametrize(
    ("flag", "given", "code"),
    [
        ("ttft_pipline", {"key": "sess-1"}, "FLAG_NOT_FOUND"),
        ("ttft_pipeline", {}, "TARGETING_KEY_MISSING"),
        ("http2_transport", {"key": "sess-1"}, "TARGETING_KEY_MISSING"),
        ("http2_transport", {"connection": 5}, "INVALID_CONTEXT"),
    ],
)
def test_what_the_provider_cannot_decide_is_the_callers_default(
    client: Any, flag: str, given: dict[str, Any], code: str
) -> None:
    details = client.get_boolean_details(flag, True, context(**given))

    assert (details.value, details.reason, details.error_code) == (True, "ERROR", code)


def test_a_feature_is_no_text_and_no_number(client: Any) -> None:
    details = [
        client.get_string_details("qos_monitoring", "x"),
        client.get_integer_details("qos_monitoring", 1),
        client.get_float_details("qos_monitoring", 1.5),
        client.get_object_details("qos_monitoring", {}),
    ]

    assert {each.error_code for each in details} == {"TYPE_MISMATCH"}
    assert client.get_boolean_value("qos_monitoring", False) is True


def test_a_rollback_in_the_ledger_is_noticed_and_told(api: Any, client: Any, runtime: Runtime) -> None:
    from openfeature.event import ProviderEvent

    heard = Heard()
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, heard)

    runtime.roll_back()

    assert heard.wait(lambda event: event.flags_changed == ["ttft_pipeline"])
    details = client.get_boolean_details("ttft_pipeline", True, context("sess-1"))
    assert (details.value, details.reason) == (False, "DISABLED")
    assert details.flag_metadata["cause"] == "rolled_back"


def test_an_edit_of_the_configuration_is_noticed_and_a_bad_one_changes_nothing(
    client: Any, runtime: Runtime
) -> None:
    from openfeature.event import ProviderEvent

    heard = Heard()
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, heard)

    runtime.declare({**FEATURES, "adaptive_governor": {"enabled": True, "rollout_percentage": 101}})
    runtime.declare({**FEATURES, "qos_monitoring": {"enabled": False}})

    assert heard.wait(lambda event: event.flags_changed == ["qos_monitoring"])
    assert client.get_boolean_value("qos_monitoring", True) is False


def test_a_ledger_that_cannot_be_read_makes_the_provider_stale_until_it_can(
    client: Any, runtime: Runtime
) -> None:
    from openfeature.event import ProviderEvent

    stale, ready = Heard(), Heard()
    client.add_handler(ProviderEvent.PROVIDER_STALE, stale)
    whole = runtime.ledger.path.read_bytes()
    for journal in runtime.ledger.path.parent.glob("ledger.db-*"):
        journal.unlink()
    aside = runtime.ledger.path.with_suffix(".new")
    aside.write_bytes(b"this is no ledger" * 500)

    aside.replace(runtime.ledger.path)

    assert stale.wait(lambda event: event.message)
    details = client.get_boolean_details("ttft_pipeline", True, context("sess-1"))
    assert (details.value, details.reason) == (False, "UNKNOWN")

    client.add_handler(ProviderEvent.PROVIDER_READY, ready)
    aside.write_bytes(whole)
    aside.replace(runtime.ledger.path)

    assert ready.wait(lambda _: True)


def test_a_configuration_that_cannot_be_used_is_the_providers_error(api: Any, tmp_path: Path) -> None:
    from wicketgate.openfeature import RuntimeProvider

    (tmp_path / "runtime.yaml").write_text("phase4_rollout: {ttft_pipeline: {rollout_percentage: 101}}\n")

    with pytest.raises(ConfigurationFaultsError, match="rollout_percentage is 101"):
        api.set_provider_and_wait(RuntimeProvider(config=tmp_path / "runtime.yaml"))

    details = api.get_client().get_boolean_details("ttft_pipeline", False)
    assert (details.value, details.error_code) == (False, "PROVIDER_NOT_READY")


def test_a_provider_without_a_configuration_has_the_defaults_and_its_thread_ends(
    api: Any, tmp_path: Path
) -> None:
    from wicketgate.openfeature import RuntimeProvider

    api.set_provider_and_wait(RuntimeProvider(state_dir=tmp_path))

    assert api.get_client().get_boolean_value("ttft_pipeline", False) is True
    api.clear_providers()
    assert "wicketgate-flags" not in {thread.name for thread in threading.enumerate()}


class NoOperations:
    """A runtime of which only the flags are asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: {}


@contextmanager
def admin_listener(snapshot: Callable[[], FlagSnapshot]) -> Iterator[str]:
    """Serve the guarded admin application on a port of its own, in a thread; yields its URL."""
    guard = Guard(token="secret", hosts=frozenset, reads_need_token=False, keys=None)
    app = create_admin_app(NoOperations(), more_routes=ofrep_routes(snapshot), guard=guard)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE_S)

    server = EdgeServer(app, params=ServerParams(), accepts_h2=lambda _: False)
    try:
        yield f"http://{run(server.start())}"
    finally:
        run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def remote(api: Any) -> Iterator[Any]:
    """Return a client of the official OFREP provider on a real admin listener."""
    ofrep = pytest.importorskip("openfeature.contrib.provider.ofrep")
    state = State(feature="ttft_pipeline", phase=Phase.RUNNING, stage="mid", share_millipercent=50_000)
    flags = FlagSnapshot(spec(), {"ttft_pipeline": state}, revision=7)
    with admin_listener(lambda: flags) as url:
        provider = ofrep.OFREPProvider(url, headers_factory=lambda: {"Authorization": "Bearer secret"})
        api.set_provider_and_wait(provider)
        yield api.get_client()
        provider.session.close()


def test_the_official_remote_provider_gets_the_gateways_decisions(remote: Any) -> None:
    decided = [remote.get_boolean_value("ttft_pipeline", False, context(key)) for key in KEYS]

    assert decided == [is_on(bucket("ttft_pipeline", key), 50_000) for key in KEYS]


def test_the_official_remote_provider_understands_reason_and_metadata(remote: Any) -> None:
    details = remote.get_boolean_details("ttft_pipeline", False, context("sess-1"))
    static = remote.get_boolean_details("qos_monitoring", False)

    assert (details.reason, details.flag_metadata["stage"]) == ("SPLIT", "mid")
    assert (static.value, static.reason, static.variant) == (True, "STATIC", "on")


@pytest.mark.parametrize(
    ("flag", "given", "code"),
    [
        ("ttft_pipline", {"key": "sess-1"}, "FLAG_NOT_FOUND"),
        ("ttft_pipeline", {}, "TARGETING_KEY_MISSING"),
        ("http2_transport", {"connection": 5}, "INVALID_CONTEXT"),
    ],
)
def test_the_official_remote_provider_understands_our_errors(
    remote: Any, flag: str, given: dict[str, Any], code: str
) -> None:
    details = remote.get_boolean_details(flag, True, context(**given))

    assert (details.value, details.error_code) == (True, code)
