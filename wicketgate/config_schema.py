"""
Every key of runtime.yaml: name, type, default, bounds, meaning, and whether it is hot.

A section is a frozen pydantic model. HOT on a key or on a whole section means that a running gateway
follows a change; all others need a restart. Sections that become parameters of a core are in
`config_cores` and `config_rollout`, those of listeners in `config_edge`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from wicketgate.config_cores import GovernorSection, QosSection
from wicketgate.config_edge import (
    AdminSection,
    HealthSection,
    MetricsSection,
    SecuritySection,
    ServerSection,
)
from wicketgate.config_fields import (
    HOT,
    Bytes,
    LocalPath,
    ModelPath,
    Name,
    Seconds,
    Section,
    contradiction,
    is_loopback,
    require_order,
    split_bind,
)
from wicketgate.config_keys import keys_of
from wicketgate.config_rollout import EVERYTHING_ON, RolloutSection

if TYPE_CHECKING:
    from rollout.spec import Spec
    from wicketgate.config_faults import Fault


class ModelEntry(Section):
    """One model to serve."""

    id: Annotated[str, Field(min_length=1, max_length=200, title="a name")] | None = None
    """Name that clients use in `model`; by default the last part of the path."""
    path: ModelPath
    """Folder of the model, relative to this file, or the id of a model on the hub (ORGANISATION/NAME)."""
    pinned: bool = False
    """Never unload it to make room for another model."""
    load: Literal["start", "demand"] = "start"
    """When to load it: with the server, or with the first request that names it."""

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.id or self.path.rstrip("/").rpartition("/")[2]


class SimulatedSection(Section):
    """The engine that only imitates timing; texts come from the model's tokenizer all the same."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    """Seed of its service times and tokens."""
    speed_ratio: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How many times as fast as the machine that it imitates."""


class KvDiskSection(Section):
    """Computed KV of conversations, kept on disk: found again after a restart. It holds what users wrote."""

    enabled: bool = False
    """Write KV to disk, in files that only this user can read."""
    path: LocalPath | None = None
    """Folder; null is the system's place for caches of this runtime."""
    max_bytes: Annotated[Bytes, Field(ge=1 << 20, le=1 << 44)] = 20 << 30
    """Most bytes that the folder may hold; the least recently used files go first."""
    bits: Literal[8, 16] = 16
    """8 writes KV quantised to 8 bits: half the bytes, answers may differ; 16 writes it as it is."""


class SpeculationSection(Section):
    """Several tokens guessed ahead and verified in one pass; the answers stay the same."""

    mode: Literal["auto", "off"] = "auto"
    """Guess where few streams run and it is measured to be faster, or never."""
    draft_model: ModelPath | None = None
    """A small model with the same vocabulary that guesses; null guesses from repeated text only."""
    max_tokens: Annotated[int, Field(ge=1, le=32)] = 6
    """Most tokens guessed ahead."""


class MemorySection(Section):
    """What the engine may use; admission stops at 85 % of it, and work is ended at 95 %."""

    max_bytes: Annotated[Bytes, Field(ge=1 << 24, le=1 << 44)] | None = None
    """Weights, KV and work together; null takes what the device recommends."""
    wired_bytes: Annotated[Bytes, Field(ge=0, le=1 << 44)] | None = None
    """macOS: memory kept resident for the GPU; null wires weights that fill most of it, 0 wires nothing."""


class EngineSection(Section):
    """The engine host, the process that runs the model."""

    kind: Literal["mlx", "simulated"] = "mlx"
    """The real engine, or a simulation of its timing that computes nothing."""
    blas: Literal["auto", "off"] = "auto"
    """On Linux, preload OpenBLAS where it is found and works; never on macOS."""
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 128
    """Streams decoded together."""
    prefill_step_tokens: Annotated[int, Field(ge=16, le=65_536)] = 512
    """Most prompt tokens computed at a time; chunk_target_s usually asks for fewer."""
    chunk_target_s: Annotated[Seconds, Field(ge=0.005, le=10), HOT] = 0.1
    """Longest gap that computing prompts should make between two tokens of a running stream."""
    decode_share_ratio: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Share of the time that running streams keep while prompts are computed."""
    prewarm: bool = True
    """Before the server is ready, compute one synthetic request and the pinned prompts."""
    pinned_prompts: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """System prompts whose KV is computed at the start and always kept."""
    trust_model_code: bool = False
    """Run Python code that a model's folder brings; only for a model that you trust as a program."""
    prefix_cache_bytes: Annotated[Bytes, Field(ge=0, le=1 << 40)] = 256 << 20
    """Memory for the KV of finished conversations; 0 keeps none."""
    context_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    """Longest prompt and answer together; null takes the model's own bound."""
    start_timeout_s: Annotated[Seconds, Field(ge=1, le=3600)] = 60.0
    """A host that is not ready by then is ended and started again."""
    freeze_floor_s: Annotated[Seconds, Field(ge=0.1, le=600)] | None = None
    """Least silence that counts as a frozen host; null is 2 s on Linux and 10 s on macOS."""
    backoff_initial_s: Annotated[Seconds, Field(ge=0, le=60)] = 0.2
    """Pause before the first restart; it doubles from one to the next."""
    backoff_max_s: Annotated[Seconds, Field(ge=0, le=600)] = 10.0
    """Longest pause before a restart."""
    max_deaths_per_minute: Annotated[int, Field(ge=1, le=1000)] = 20
    """After more deaths of the host than this the gateway stops restarting it."""
    models_max_bytes: Annotated[Bytes, Field(ge=1 << 20, le=1 << 44)] | None = None
    """Weights of all loaded models together; the least recently used ones go first. null is no bound."""
    kv_disk: KvDiskSection = KvDiskSection()
    """KV on disk."""
    speculation: SpeculationSection = SpeculationSection()
    """Guessing ahead."""
    memory: MemorySection = MemorySection()
    """Bounds of memory."""
    simulated: SimulatedSection = SimulatedSection()
    """The engine without a model."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_order(self, "backoff_initial_s", "backoff_max_s")
        return self


class TextSection(Section):
    """Templating and tokenising."""

    inline_chars: Annotated[int, Field(ge=0, le=10_000_000)] = 2000
    """Shorter prompts are tokenised on the event loop, longer ones beside it."""


class WarmSection(Section):
    """Computing ahead."""

    idle: bool = True
    """Prefill what waits while the engine has nothing to decode."""
    max_jobs: Annotated[int, Field(ge=0, le=1024)] = 4
    """Warm-up jobs that the engine may hold at once."""


class PipelineSection(Section):
    """What happens to a request before its first token."""

    order: Literal["shortest_uncached", "fcfs"] = "shortest_uncached"
    """Who goes next: least left to compute first, or first come, first served."""
    overtake_ratio: Annotated[float, Field(ge=1, le=100)] = 1.5
    """A request may be overtaken until it waited this many times its first-come wait, plus the floor."""
    overtake_floor_s: Annotated[Seconds, Field(ge=0, le=600)] = 0.25
    """The floor: what overtaking may cost every request."""
    text: TextSection = TextSection()
    """Templating and tokenising."""
    warm: WarmSection = WarmSection()
    """Computing ahead."""


class LogsSection(Section):
    """What is logged."""

    level: Annotated[Literal["debug", "info", "warning", "error"], HOT] = "info"
    """Least severity of a log line."""
    requests: Annotated[bool, HOT] = True
    """One JSON line for each request that ended."""
    requests_file: LocalPath | None = None
    """File that these lines are appended to; null writes them to stderr with the others."""


class RuntimeConfig(Section):
    """The whole of runtime.yaml."""

    name: Name = "default"
    """Name of this runtime; its state is kept under it."""
    state_dir: LocalPath | None = None
    """Folder for the ledger, the control socket and the cache; null is the system's place for state."""
    server: ServerSection = ServerSection()
    """The listener for clients."""
    admin: AdminSection = AdminSection()
    """The listener for operators."""
    metrics: MetricsSection = MetricsSection()
    """Where Prometheus may scrape."""
    security: SecuritySection = SecuritySection()
    """Who may call, and how much."""
    health: HealthSection = HealthSection()
    """When the runtime is well."""
    model: ModelPath | None = None
    """Short for `models` with this one path."""
    models: tuple[ModelEntry, ...] = ()
    """The models to serve; the command line's MODEL takes their place."""
    engine: EngineSection = EngineSection()
    """The engine host."""
    pipeline: Annotated[PipelineSection, HOT] = PipelineSection()
    """What happens to a request before its first token."""
    governor: Annotated[GovernorSection, HOT] = GovernorSection()
    """How much may be in flight."""
    qos: QosSection = QosSection()
    """What was promised, and is it kept."""
    phase4_rollout: Annotated[RolloutSection, HOT] = EVERYTHING_ON
    """Who gets each feature."""
    logs: LogsSection = LogsSection()
    """What is logged."""

    _warnings: tuple[Fault, ...] = PrivateAttr(default=())

    @property
    def rollout(self) -> Spec:
        """The section phase4_rollout, as `rollout` takes it."""
        return self.phase4_rollout.spec

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """What is allowed and doubtful in the file."""
        return self._warnings

    def with_warnings(self, warnings: tuple[Fault, ...]) -> Self:
        """Return this configuration with the doubts about its text."""
        copy = self.model_copy()
        copy._warnings = warnings
        return copy

    def changed(self, other: RuntimeConfig) -> tuple[list[str], list[str]]:
        """Return the keys that differ: the hot ones, and those that need a restart."""
        hot: list[str] = []
        restart: list[str] = []
        for key in keys_of(RuntimeConfig):
            if key.section or "[]" in key.path:  # a list is compared as a whole
                continue
            if key.value_in(self) != key.value_in(other):
                (hot if key.hot else restart).append(key.name)
        return hot, restart

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("model"), str) and "models" not in data:
            return {**data, "models": ({"path": data["model"]},)}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model is not None and [entry.path for entry in self.models] != [self.model]:
            raise contradiction("model", "is set, and models too", "keep one of them")
        _require_different_names(self.models)
        if self.server.bind == self.admin.bind and split_bind(self.admin.bind)[1] != 0:
            raise contradiction("admin.bind", "is the address of server.bind too", "choose another port")
        for name, section in (("server", self.server), ("admin", self.admin)):
            host = split_bind(section.bind)[0]
            if not is_loopback(host) and self.security.api_keys_file is None:
                message = f"is {section.bind}, which other machines can reach, and there are no API keys"
                raise contradiction(f"{name}.bind", message, "set security.api_keys_file, or bind 127.0.0.1")
        return self


def _require_different_names(models: tuple[ModelEntry, ...]) -> None:
    names = [entry.name for entry in models]
    for index, name in enumerate(names):
        if name in names[:index]:
            message = f"gives the name {name}, which an earlier entry has"
            raise contradiction(f"models.{index}.path", message, "give it an id of its own")
