"""What runtime.yaml says, as the parameters of those parts that the configuration must not know."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from transport.forwarded import ForwardedKind
from transport.newcomers import NewcomerParams
from transport.rates import Quota
from transport.server import ServerParams
from wicketgate.api.cors import Cors
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.quotas import Limits
from wicketgate.api.responses.store import StoreParams
from wicketgate.config_fields import split_bind
from wicketgate.drill import DrillParams
from wicketgate.engine.client import EngineParams
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import PlantParams
from wicketgate.engine.supervision import RestartParams
from wicketgate.pipeline.probe import ProbeParams
from wicketgate.pipeline.queue import QueueParams
from wicketgate.pipeline.warm import WarmParams
from wicketgate.platform import default_kv_dir, engine_silence_s

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from wicketgate.config import RuntimeConfig
    from wicketgate.config_edge import LimitsSection
    from wicketgate.served import ServedModel

_FORWARDED: Final = {"x_forwarded": ForwardedKind.X_FORWARDED, "forwarded": ForwardedKind.FORWARDED}


def engine_params(
    config: RuntimeConfig,
    served: ServedModel,
    *,
    state_dir: Path,
    vocabulary_size: int,
    pins: list[list[int]],
) -> EngineParams:
    """
    Return how a model's engine host is started and watched.

    Args:
        config: The whole configuration.
        served: The model.
        state_dir: Of the runtime.
        vocabulary_size: Token ids that its tokenizer knows; the simulated engine draws from them.
        pins: Prefixes that the host computes at the start and always keeps.
    """
    engine = config.engine
    return EngineParams(
        options=host_options(config, served, state_dir=state_dir, vocabulary_size=vocabulary_size, pins=pins),
        start_timeout_s=engine.start_timeout_s,
        freeze_floor_s=engine_silence_s() if engine.freeze_floor_s is None else engine.freeze_floor_s,
        restart=RestartParams(
            backoff_initial_s=engine.backoff_initial_s,
            backoff_max_s=engine.backoff_max_s,
            max_deaths_per_minute=engine.max_deaths_per_minute,
        ),
        blas=engine.blas,
    )


def host_options(
    config: RuntimeConfig,
    served: ServedModel,
    *,
    state_dir: Path,
    vocabulary_size: int,
    pins: list[list[int]],
) -> HostOptions:
    """Return what a model's engine host is started with; the arguments are those of `engine_params`."""
    engine, disk, speculation = config.engine, config.engine.kv_disk, config.engine.speculation
    return HostOptions(
        engine=engine.kind,
        model=str(served.folder),
        trust_model_code=engine.trust_model_code,
        max_batch_size=engine.max_batch_size,
        prefill_step_tokens=engine.prefill_step_tokens,
        chunk_target_s=engine.chunk_target_s,
        decode_share_ratio=engine.decode_share_ratio,
        context_tokens=engine.context_tokens,
        prewarm=engine.prewarm,
        pins=pins,
        prefix_cache_bytes=engine.prefix_cache_bytes,
        kv_dir=str(kv_folder(config, served.name, state_dir=state_dir)) if disk.enabled else "",
        kv_disk_bytes=disk.max_bytes // max(1, len(config.models)) if disk.enabled else 0,
        kv_disk_bits=8 if disk.bits == 8 else 0,
        speculation=speculation.mode,
        draft_model="" if served.draft_folder is None else str(served.draft_folder),
        draft_tokens=speculation.max_tokens,
        memory_bytes=_part(engine.memory.max_bytes, served.memory_ratio),
        wired_bytes=_part(engine.memory.wired_bytes, served.memory_ratio),
        seed=engine.simulated.seed,
        vocabulary_size=vocabulary_size,
        plant=_plant(engine.simulated.speed_ratio),
    )


def kv_folder(config: RuntimeConfig, model: str, *, state_dir: Path) -> Path:
    """Return where a model's KV is kept on disk: a folder of its own, named alike on every file system."""
    root = config.engine.kv_disk.path or default_kv_dir(config.name, state_dir=state_dir)
    readable = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40]
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return root / f"{readable}-{digest}".lstrip("-")


def _part(size_bytes: int | None, ratio: float) -> int | None:
    return None if size_bytes is None else int(size_bytes * ratio)


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


def drill_params(config: RuntimeConfig) -> DrillParams:
    """Return whom a drill hits, and with what."""
    drill = config.phase4_rollout.drill
    return DrillParams(feature=drill.feature, fail_ratio=drill.fail_ratio, delay_s=drill.delay_s)


def api_listener(config: RuntimeConfig, *, sockets: tuple[socket.socket, ...] = ()) -> ServerParams:
    """
    Return where clients are listened to.

    Args:
        sockets: Those that systemd or launchd opened; they take the place of server.bind.
    """
    server = config.server
    host, port = split_bind(server.bind)
    return ServerParams(
        host=None if sockets else host,
        port=port,
        unix_path=server.unix_path,
        sockets=sockets,
        tls_certificate=server.tls_certificate,
        tls_key=server.tls_key,
        backlog=server.backlog,
        keep_alive_s=server.keep_alive_s,
        header_timeout_s=server.header_timeout_s,
        # Of an answer that is still being made the API is tired first, and says so in the request's log line.
        stall_s=2 * server.slow_reader_timeout_s,
        max_connections=server.max_connections,
        newcomers=NewcomerParams(
            most=server.max_newcomers,
            most_per_address=server.max_newcomers_per_address,
            connections_per_address=server.max_connections_per_address,
        ),
        max_streams=server.max_streams,
        max_streams_per_connection=server.max_streams_per_connection,
        proxy_trusted=tuple(ipaddress.ip_network(each, strict=False) for each in server.proxy.trusted),
        proxy_protocol=server.proxy.mode == "proxy_protocol",
        forwarded=_FORWARDED.get(server.proxy.mode),
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
        heartbeat_s=server.heartbeat_s,
        no_progress_timeout_s=server.no_progress_timeout_s,
        slow_reader_timeout_s=server.slow_reader_timeout_s,
        refuses_unknown_fields=server.unknown_fields == "refuse",
        named_tool_finish=server.named_tool_finish,
    )


def limits(config: RuntimeConfig) -> Limits:
    """Return how much each client may ask for."""
    security = config.security
    return Limits(per_key=_quota(security.per_key), per_address=_quota(security.per_address))


def _quota(section: LimitsSection) -> Quota:
    return Quota(
        requests_per_minute=section.requests_per_minute,
        tokens_per_minute=section.tokens_per_minute,
        streams=section.streams,
    )


def cors(config: RuntimeConfig) -> Cors | None:
    """Return which pages of other origins may call; None where none may."""
    section = config.server.cors
    return Cors(origins=section.origins, max_age_s=section.max_age_s) if section.origins else None


def stored_responses(config: RuntimeConfig) -> StoreParams:
    """Return how much of /v1/responses is stored."""
    section = config.server.responses
    return StoreParams(max_count=section.max_count, max_bytes=section.max_bytes, max_age_s=section.max_age_s)


def probe_params(config: RuntimeConfig) -> ProbeParams:
    """Return when an engine is asked for a token."""
    health = config.health
    return ProbeParams(interval_s=health.probe_interval_s, timeout_s=health.probe_timeout_s)
