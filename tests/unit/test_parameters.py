"""What runtime.yaml says of the engine, as a host is told it, and of the clients' listener."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wicketgate import parameters
from wicketgate.config import RuntimeConfig
from wicketgate.platform import default_kv_dir
from wicketgate.served import ServedModel

if TYPE_CHECKING:
    from wicketgate.engine.options import HostOptions

STATE = Path("/state")
SERVED = ServedModel(name="demo", folder=Path("/models/demo"), weights_bytes=1)


def options(served: ServedModel = SERVED, **engine: object) -> HostOptions:
    config = RuntimeConfig.model_validate({"engine": engine})
    return parameters.host_options(config, served, state_dir=STATE, vocabulary_size=9, pins=[[1, 2]])


@pytest.mark.parametrize(
    "name",
    [
        "max_batch_size",
        "prefill_step_tokens",
        "chunk_target_s",
        "decode_share_ratio",
        "prewarm",
        "trust_model_code",
        "prefix_cache_bytes",
        "context_tokens",
    ],
)
def test_a_key_of_the_same_name_is_handed_on(name: str) -> None:
    value = {"prewarm": False, "trust_model_code": True, "chunk_target_s": 0.05, "decode_share_ratio": 0.5}

    assert getattr(options(**{name: value.get(name, 1024)}), name) == value.get(name, 1024)


def test_folder_and_pins_are_the_models_own() -> None:
    told = options()

    assert (told.model, told.pins, told.draft_model) == ("/models/demo", [[1, 2]], "")


def test_without_kv_on_disk_there_is_no_folder_for_it() -> None:
    told = options(kv_disk={"max_bytes": 1 << 30})

    assert (told.kv_dir, told.kv_disk_bytes, told.kv_disk_bits) == ("", 0, 0)


def test_kv_on_disk_lies_in_a_folder_of_the_model_below_the_systems_place() -> None:
    told = options(kv_disk={"enabled": True, "max_bytes": 1 << 30, "bits": 8})

    assert Path(told.kv_dir).parent == default_kv_dir("default", state_dir=STATE)
    assert Path(told.kv_dir).name.startswith("demo-")
    assert (told.kv_disk_bytes, told.kv_disk_bits) == (1 << 30, 8)


def test_the_bytes_on_disk_are_shared_by_the_models() -> None:
    config = RuntimeConfig.model_validate(
        {
            "models": ({"id": "a", "path": "/a"}, {"id": "b", "path": "/b"}),
            "engine": {"kv_disk": {"enabled": True, "max_bytes": 1 << 30}},
        }
    )

    told = parameters.host_options(config, SERVED, state_dir=STATE, vocabulary_size=9, pins=[])

    assert told.kv_disk_bytes == 1 << 29


def test_names_that_a_file_system_could_take_for_one_have_folders_of_their_own() -> None:
    config = RuntimeConfig.model_validate({"engine": {"kv_disk": {"path": "/kv"}}})
    names = ["Demo", "demo", "org/demo", "../demo", "..", "日本", "d" * 200]

    folders = [parameters.kv_folder(config, name, state_dir=STATE) for name in names]

    assert len({str(folder).lower() for folder in folders}) == len(names)
    assert {folder.parent for folder in folders} == {Path("/kv")}
    assert all(len(folder.name) < 60 and not folder.name.startswith(".") for folder in folders)


def test_speculation_is_told_with_its_model() -> None:
    told = options(
        replace(SERVED, draft_folder=Path("/models/small")), speculation={"mode": "off", "max_tokens": 3}
    )

    assert (told.speculation, told.draft_model, told.draft_tokens) == ("off", "/models/small", 3)


def test_memory_is_a_models_part_of_the_whole() -> None:
    memory = {"max_bytes": 1 << 30, "wired_bytes": 0}

    told = options(replace(SERVED, memory_ratio=0.25), memory=memory)

    assert (told.memory_bytes, told.wired_bytes) == (1 << 28, 0)


def test_without_a_bound_of_memory_the_host_asks_its_device() -> None:
    assert (options().memory_bytes, options().wired_bytes) == (None, None)


def test_the_connection_outlasts_the_apis_patience_with_a_client_that_does_not_read() -> None:
    config = RuntimeConfig.model_validate({"server": {"slow_reader_timeout_s": 3}})

    assert parameters.api_listener(config).stall_s > parameters.api_settings(config).slow_reader_timeout_s


def test_what_strangers_may_hold_is_handed_on() -> None:
    server = {"max_newcomers": 7, "max_newcomers_per_address": 3, "max_connections_per_address": 0}

    newcomers = parameters.api_listener(RuntimeConfig.model_validate({"server": server})).newcomers

    assert (newcomers.most, newcomers.most_per_address, newcomers.connections_per_address) == (7, 3, 0)
