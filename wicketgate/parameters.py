"""What runtime.yaml says, as the parameters of those parts that the configuration must not know."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from transport.server import ServerParams
from wicketgate.api.endpoint import ApiSettings
from wicketgate.config_fields import split_bind
from wicketgate.engine.client import EngineParams
from wicketgate.engine.plant import PlantParams
from wicketgate.engine.supervision import RestartParams
from wicketgate.engine.wire import HostOptions
from wicketgate.pipeline.queue import QueueParams
from wicketgate.pipeline.warm import WarmParams
from wicketgate.platform import engine_silence_s

if TYPE_CHECKING:
    from pathlib import Path

    from wicketgate.config import RuntimeConfig


def engine_params(config: RuntimeConfig, model: Path, *, vocabulary_size: int) -> EngineParams:
    """
    Return how the engine host is started and watched.

    Args:
        config: The whole configuration.
        model: The model's folder.
        vocabulary_size: Token ids that its tokenizer knows; the simulated engine draws from them.
    """
    engine = config.engine
    simulated = engine.simulated
    return EngineParams(
        options=HostOptions(
            engine=engine.kind,
            model=str(model),
            max_batch_size=engine.max_batch_size,
            prefill_step_tokens=engine.prefill_step_tokens,
            prefix_cache_bytes=engine.prefix_cache_bytes,
            context_tokens=engine.context_tokens,
            seed=simulated.seed,
            vocabulary_size=vocabulary_size,
            plant=_plant(simulated.speed_ratio),
        ),
        start_timeout_s=engine.start_timeout_s,
        freeze_floor_s=engine_silence_s() if engine.freeze_floor_s is None else engine.freeze_floor_s,
        restart=RestartParams(
            backoff_initial_s=engine.backoff_initial_s,
            backoff_max_s=engine.backoff_max_s,
            max_deaths_per_minute=engine.max_deaths_per_minute,
        ),
        max_deaths_per_stream=engine.max_deaths_per_stream,
        blas=engine.blas,
    )


def _plant(speed_ratio: float) -> dict[str, float]:
    """Return the simulated engine's costs on a machine so many times as fast as the one it imitates."""
    usual = asdict(PlantParams())
    return {name: cost / speed_ratio for name, cost in usual.items() if name.endswith("_ms")}


def queue_params(config: RuntimeConfig) -> QueueParams:
    """Return how the waiting are ordered."""
    pipeline = config.pipeline
    return QueueParams(
        order=pipeline.order,
        overtake_ratio=pipeline.overtake_ratio,
        overtake_floor_s=pipeline.overtake_floor_s,
    )


def warm_params(config: RuntimeConfig) -> WarmParams:
    """Return the bounds of warming."""
    pipeline = config.pipeline
    return WarmParams(
        idle=pipeline.warm.idle,
        max_jobs=pipeline.warm.max_jobs,
        inline_chars=pipeline.text.inline_chars,
    )


def api_listener(config: RuntimeConfig) -> ServerParams:
    """Return where clients are listened to."""
    server = config.server
    host, port = split_bind(server.bind)
    return ServerParams(
        host=host,
        port=port,
        tls_certificate=server.tls_certificate,
        tls_key=server.tls_key,
        backlog=server.backlog,
        keep_alive_s=server.keep_alive_s,
        max_streams_per_connection=server.max_streams_per_connection,
    )


def admin_listener(config: RuntimeConfig) -> ServerParams:
    """Return where operators are listened to, on TCP."""
    host, port = split_bind(config.admin.bind)
    return ServerParams(host=host, port=port)


def api_settings(config: RuntimeConfig) -> ApiSettings:
    """Return what the API modules ask for with each request."""
    server = config.server
    return ApiSettings(
        max_body_bytes=server.max_body_bytes,
        body_timeout_s=server.body_timeout_s,
        hold_headers_s=server.hold_headers_s,
        request_timeout_s=server.request_timeout_s,
        refuses_unknown_fields=server.unknown_fields == "refuse",
    )
