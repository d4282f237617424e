"""
Flags of the running gateway: ledger -> immutable snapshot -> assignment of a request.

Theory of operation: all that is needed to decide is compiled into one `FlagSnapshot`, and the board holds
one reference to it, so a decision takes no lock and never sees half a change. A daemon thread looks at the
ledger every 50 ms and swaps the reference; it is a thread, so that it works while the event loop is blocked.
A rollback swaps the reference first and writes afterwards: until the ledger shows it, the feature is latched
off in memory, whatever the ledger says.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rollout import description
from rollout.assignment import Assignment, FlagSnapshot
from rollout.latch import rolled_back
from rollout.spec import Mode, did_you_mean
from rollout.stages import (
    Input,
    Phase,
    State,
    apply,
    hold_s,
    roll_back,
    state_from,
)
from wicketgate.errors import LedgerError, NotDurableError, NotFoundError, RevisionConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.spec import Spec
    from wicketgate.ledger import Contents, Ledger, Row, Watch

__all__ = ["Assignment", "FlagBoard", "FlagSnapshot", "RollbackDone", "RollbackNotDurableError", "describe"]

HTTP2_TRANSPORT = "http2_transport"
"""The feature that is decided per connection, before ALPN."""
POLL_S = 0.05
"""How often the ledger is looked at."""

HOLD_ACTOR = "auto:hold"
"""Who writes down that a hold is served."""

_RETRY_S = 60.0
log = logging.getLogger(__name__)


def describe(snapshot: FlagSnapshot, *, now_unix_s: float) -> list[dict[str, object]]:
    """Tell of every feature where it stands: the rows of `status`, of `rollout status` and of their JSON."""
    rows = description.describe(snapshot, now_unix_s=now_unix_s)
    for row in rows:
        changed_unix_s = row.pop("updated_unix_s")
        row["updated_at"] = _rfc3339(changed_unix_s) if isinstance(changed_unix_s, float) else None
    return rows


def _rfc3339(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def states_of(contents: Contents) -> dict[str, State]:
    """
    Read the ledger's rows.

    Raises:
        ValueError: a row that this version does not understand.
    """
    return {name: state_from(name, row.revision, row.document) for name, row in contents.rows.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """One feature after a rollback."""

    feature: str
    from_percentage: float
    to_percentage: float
    mode: str
    """direct or staged."""
    stage: str | None
    """The stage of a staged feature that it was at."""
    revision: int
    """Of the ledger's row; 0 where it could not be written and there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackDone:
    """What a rollback did, and how long it took."""

    features: tuple[RolledBack, ...]
    flip_s: float
    """From the call until no admission could be on."""
    durable_s: float | None
    """From the call until it was saved; None: it is not."""


class RollbackNotDurableError(NotDurableError):
    """Rolled back in memory and not saved: a restart would undo it."""

    def __init__(self, message: str, *, done: RollbackDone) -> None:
        super().__init__(message)
        self.done = done


@dataclass(slots=True)
class _Known:
    """What the board was told; the snapshot is compiled from it."""

    spec: Spec
    states: dict[str, State] = field(default_factory=dict)
    revision: int = 0
    killed: bool = False
    readable: bool = True
    latched: dict[str, State] = field(default_factory=dict)
    """Features rolled back in memory that the ledger does not show as such yet."""

    def compile(self) -> FlagSnapshot:
        return FlagSnapshot(
            self.spec,
            self.states | self.latched,
            revision=self.revision,
            killed=self.killed,
            readable=self.readable,
        )


class FlagBoard:
    """
    Holds the snapshot that is in force and keeps it true.

    Args:
        spec: What is declared.
        ledger: Where states are kept.
        on_change: Called with the new snapshot after shares changed, in the thread that changed them.
        clock: Monotonic seconds, to time a rollback.
        unix_clock: Wall time, for the record and for holds.
        poll_s: How often the ledger is looked at.
    """

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        *,
        on_change: Callable[[FlagSnapshot], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        unix_clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        self._ledger = ledger
        self._on_change = on_change
        self._clock = clock
        self._unix_clock = unix_clock
        self._poll_s = poll_s
        self._known = _Known(spec)
        self._swapping = threading.Lock()  # held for microseconds, to compile and swap
        self._reading = threading.Lock()  # held from a read to its swap: an older read never replaces a newer
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._hold_retry_unix_s = 0.0
        self.problem: str | None = None
        """Why the ledger cannot be read; None when it can."""
        self._snapshot = self._known.compile()
        self.refresh()

    @property
    def snapshot(self) -> FlagSnapshot:
        """The snapshot that is in force."""
        return self._snapshot

    def assign(self, key: str, *, client: str | None = None, connection: str | None = None) -> Assignment:
        """Decide all flags of one request; see `FlagSnapshot.assign`."""
        return self._snapshot.assign(key, client=client, connection=connection)

    def accepts_h2(self, peer: str) -> bool:
        """Decide whether a connection may speak HTTP/2; `peer` is its `address:port`."""
        return HTTP2_TRANSPORT in self._snapshot.assign("", connection=peer).on

    def describe(self) -> list[dict[str, object]]:
        """Tell of every feature where it stands; see `describe`."""
        return describe(self._snapshot, now_unix_s=self._unix_clock())

    def start(self) -> None:
        """Begin to watch the ledger, in a thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="flags", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the snapshot stays as it is."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def replace_spec(self, spec: Spec) -> None:
        """Put another declaration in force. What was rolled back stays so."""
        with self._swapping:
            self._known.spec = spec
            changed = self._swap()
        self._tell(changed)

    def refresh(self, *, saved: tuple[str, ...] = ()) -> None:
        """
        Read the ledger and put what it says in force. Where it cannot be read, `problem` says why.

        Args:
            saved: Latched features whose rollback the ledger holds by now.
        """
        with self._reading:
            contents = self._read()
            with self._swapping:
                known = self._known
                known.readable = contents is not None
                if contents is not None:
                    (known.states, known.revision, known.killed) = contents
                    for name in [each for each in known.latched if _is_over(each, known.states, saved)]:
                        del known.latched[name]
                changed = self._swap()
        self._tell(changed)

    def rollback(self, feature: str | None, *, actor: str, reason: str) -> RollbackDone:
        """
        Put a feature, or all of them, to 0 % and latch it there: in memory at once, then in the ledger.

        Blocks until it is saved: call it in a thread.

        Raises:
            NotFoundError: no such feature; nothing changed.
            RollbackNotDurableError: in force and not saved; `done` tells the rest.
        """
        started_s = self._clock()
        names = self._names(feature)
        now_unix_s = self._unix_clock()
        with self._swapping:
            before = self._snapshot
            for name in names:
                state = before.states.get(name, State(feature=name))
                self._known.latched[name] = roll_back(
                    state, now_unix_s=now_unix_s, actor=actor, reason=reason
                )
            changed = self._swap()
        flip_s = self._clock() - started_s
        rows: Mapping[str, Row] = {}
        durable_s, problem = None, None
        try:
            rows = self._ledger.change(
                names,
                lambda _name, row: rolled_back(
                    row.document, now_unix_s=now_unix_s, actor=actor, reason=reason
                ),
                action=Input.ROLLBACK,
                actor=actor,
                reason=reason,
            )
            durable_s = self._clock() - started_s
            self.refresh(saved=names)
        except LedgerError as error:
            problem = error
        finally:
            self._tell(changed)
        features = tuple(_rolled_back(name, before, rows.get(name)) for name in names)
        done = RollbackDone(features=features, flip_s=flip_s, durable_s=durable_s)
        if problem is not None:
            raise RollbackNotDurableError(
                f"{', '.join(names)} off for new requests, and not saved: {problem}", done=done
            ) from problem
        return done

    def _names(self, feature: str | None) -> tuple[str, ...]:
        known = dict.fromkeys([*self._snapshot.spec.features, *self._snapshot.states])
        if feature is None:
            return tuple(known)
        if feature not in known:
            raise NotFoundError(
                f"no feature named {feature}.{did_you_mean(feature, known)} Nothing was rolled back. "
                f"Features: {', '.join(sorted(known))}.",
                param="feature",
                code="unknown_feature",
            )
        return (feature,)

    def _read(self) -> tuple[dict[str, State], int, bool] | None:
        try:
            contents = self._ledger.read()
            states = states_of(contents)
        except (LedgerError, ValueError) as error:
            if self.problem is None:
                log.warning("ledger_unusable", extra={"problem": str(error)})
            self.problem = str(error)
            return None
        if self.problem is not None:
            log.info("ledger_usable")
        self.problem = None
        return states, contents.revision, contents.killed

    def _swap(self) -> FlagSnapshot | None:
        """Compile what is known and put it in force; return it where a share changed."""
        before, self._snapshot = self._snapshot, self._known.compile()
        return None if before.shares == self._snapshot.shares else self._snapshot

    def _tell(self, changed: FlagSnapshot | None) -> None:
        if changed is not None and self._on_change is not None:
            self._on_change(changed)

    def look(self, watch: Watch) -> None:
        """Do once what the thread does at every poll: take up what changed, write down served holds."""
        if self._noticed(watch):
            self.refresh()
        self._serve_holds()

    def _watch(self) -> None:
        watch = self._ledger.watch()
        try:
            while not self._stopping.wait(self._poll_s):
                try:
                    self.look(watch)
                except Exception:  # the watcher must outlive whatever on_change raises
                    log.exception("flags_watch_failed")
        finally:
            watch.close()

    def _noticed(self, watch: Watch) -> bool:
        try:
            return watch.changed() or self.problem is not None
        except LedgerError:
            return True

    def _serve_holds(self) -> None:
        """Write down of each running feature whether its hold is served."""
        now_unix_s = self._unix_clock()
        if now_unix_s < self._hold_retry_unix_s:
            return
        snapshot = self._snapshot
        for state in snapshot.states.values():
            if _hold_is_served(snapshot.spec, state, now_unix_s=now_unix_s):
                self._serve_hold(state, snapshot.spec, now_unix_s=now_unix_s)

    def _serve_hold(self, state: State, spec: Spec, *, now_unix_s: float) -> None:
        served = apply(state, Input.HOLD_SERVED, spec=spec, now_unix_s=now_unix_s, actor=HOLD_ACTOR)
        try:
            self._ledger.change(
                [state.feature],
                lambda _name, _row: served.document(),
                action=Input.HOLD_SERVED,
                actor=HOLD_ACTOR,
                reason="",
                expect_revision=state.revision,
            )
        except (LedgerError, RevisionConflictError):
            self._hold_retry_unix_s = now_unix_s + _RETRY_S


def _rolled_back(name: str, before: FlagSnapshot, row: Row | None) -> RolledBack:
    """Tell of one feature what a rollback changed; no row: it could not be written."""
    declared = before.spec.features.get(name)
    state = before.states.get(name, State(feature=name))
    staged = declared is not None and declared.mode is Mode.STAGED
    return RolledBack(
        feature=name,
        from_percentage=before.shares[name].percentage if declared else 0.0,
        to_percentage=0.0,
        mode=str(Mode.STAGED if staged else Mode.DIRECT),
        stage=state.stage if staged else None,
        revision=state.revision if row is None else row.revision,
    )


def _hold_is_served(spec: Spec, state: State, *, now_unix_s: float) -> bool:
    feature = spec.features.get(state.feature)
    if feature is None or feature.mode is not Mode.STAGED or state.phase is not Phase.RUNNING:
        return False
    return state.served_s(now_unix_s=now_unix_s) >= hold_s(state, spec)


def _is_over(name: str, states: Mapping[str, State], saved: tuple[str, ...]) -> bool:
    """Tell whether a latch in memory is no longer needed: the ledger holds it."""
    return name in saved or (name in states and states[name].phase is Phase.ROLLED_BACK)
