"""
Flags of the running gateway: ledger -> immutable snapshot -> assignment of a request.

Theory of operation: all that is needed to decide is compiled into one `FlagSnapshot`, and the board holds
one reference to it, so a decision takes no lock and never sees half a change. A daemon thread looks at the
ledger every 50 ms and swaps the reference; it is a thread, so that it works while the event loop is blocked.

What lowers exposure swaps the reference first (`lower`, `kill`: microseconds, from any thread) and is written
afterwards (`persist`: blocks). Until the ledger shows it, it is latched in memory, whatever the ledger says;
what could not be written is tried again until it is.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rollout import description
from rollout.assignment import Assignment, FlagSnapshot
from rollout.spec import did_you_mean
from rollout.stages import State, roll_back
from wicketgate.errors import LedgerError, NotFoundError
from wicketgate.known import Known, states_of
from wicketgate.ledger import KILL_SWITCH
from wicketgate.lowering import Lowering, RollbackDone, RollbackNotDurableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.spec import Spec
    from rollout.verdict import Judged
    from wicketgate.ledger import Ledger, Watch

__all__ = [
    "Assignment",
    "FlagBoard",
    "FlagSnapshot",
    "Lowering",
    "RollbackDone",
    "RollbackNotDurableError",
    "describe",
    "states_of",
]

HTTP2_TRANSPORT = "http2_transport"
"""The feature that is decided per connection, before ALPN."""
POLL_S = 0.05
"""How often the ledger is looked at."""

RETRY_S = 1.0
"""How long after a failed write it is tried again."""

log = logging.getLogger(__name__)


def describe(
    snapshot: FlagSnapshot, *, judged: Mapping[str, Judged] = MappingProxyType({})
) -> list[dict[str, object]]:
    """
    Tell of every feature where it stands: the rows of `status`, of `rollout status` and of their JSON.

    Args:
        snapshot: What is in force.
        judged: By feature, what its stage has shown; one that nothing watches may be missing.
    """
    rows = description.describe(snapshot, judged=judged)
    for row in rows:
        changed_unix_s = row.pop("updated_unix_s")
        row["updated_at"] = _rfc3339(changed_unix_s) if isinstance(changed_unix_s, float) else None
    return rows


def _rfc3339(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


class FlagBoard:
    """
    Holds the snapshot that is in force and keeps it true.

    Args:
        spec: What is declared.
        ledger: Where states are kept.
        on_change: Called with the new snapshot after shares changed, in the thread that changed them.
        on_lowered: Called after a rollback or a kill was saved, in the thread that saved it; other nodes
            would hear of it there.
        on_unsaved: Called each time that one of them could not be saved.
        clock: Monotonic seconds, to time a rollback.
        unix_clock: Wall time, for the record.
        poll_s: How often the ledger is looked at.
    """

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        *,
        on_change: Callable[[FlagSnapshot], None] | None = None,
        on_lowered: Callable[[Lowering], None] = lambda _: None,
        on_unsaved: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        unix_clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        self._ledger = ledger
        self._on_change = on_change
        self._on_lowered = on_lowered
        self._on_unsaved = on_unsaved
        self._clock = clock
        self._unix_clock = unix_clock
        self._poll_s = poll_s
        self._known = Known(spec)
        self._swapping = threading.Lock()  # held for microseconds, to compile and swap
        self._reading = threading.Lock()  # held from a read to its swap: an older read never replaces a newer
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._unsaved: list[Lowering] = []
        self._retry_s = 0.0
        self.problem: str | None = None
        """Why the ledger cannot be read; None when it can."""
        self.evidence: Mapping[str, Mapping[str, Any]] = {}
        """What the ledger keeps of the guards, by feature, as it was read last."""
        self._read_s = clock()
        self._snapshot = self._known.compile()
        self.refresh()

    @property
    def snapshot(self) -> FlagSnapshot:
        """The snapshot that is in force."""
        return self._snapshot

    @property
    def killed_by(self) -> frozenset[str]:
        """Which kill switches are on: `file`, `ledger`."""
        known = self._known
        switches = {"file": known.spec.kill_switch, "ledger": known.is_killed}
        return frozenset(name for name, is_on in switches.items() if is_on)

    @property
    def age_s(self) -> float:
        """Since the ledger was read, or seen to be unchanged."""
        return self._clock() - self._read_s

    @property
    def unsaved(self) -> int:
        """Rollbacks and kills that are in force and could not be written yet."""
        return len(self._unsaved)

    def assign(self, key: str, *, client: str | None = None, connection: str | None = None) -> Assignment:
        """Decide all flags of one request; see `FlagSnapshot.assign`."""
        return self._snapshot.assign(key, client=client, connection=connection)

    def accepts_h2(self, peer: str) -> bool:
        """Decide whether a connection may speak HTTP/2; `peer` is its `address:port`."""
        return self._snapshot.on(HTTP2_TRANSPORT, "", connection=peer)

    def describe(self, *, judged: Mapping[str, Judged] = MappingProxyType({})) -> list[dict[str, object]]:
        """Tell of every feature where it stands; see `describe`."""
        return describe(self._snapshot, judged=judged)

    def start(self) -> None:
        """Begin to watch the ledger, in a thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="flags", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and try for the last time to save what was not; the snapshot stays as it is."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._save_again()

    def replace_spec(self, spec: Spec) -> None:
        """Put another declaration in force. What was rolled back stays so."""
        with self._swapping:
            self._known.spec = spec
            changed = self._swap()
        self._tell(changed)

    def refresh(self, *, saved: Lowering | None = None) -> None:
        """
        Read the ledger and put what it says in force. Where it cannot be read, `problem` says why.

        Args:
            saved: What the ledger holds by now, whatever it shows: it may have been ended since.
        """
        with self._reading:
            contents = self._read()
            with self._swapping:
                known = self._known
                known.readable = contents is not None
                if contents is not None:
                    (known.states, known.revision, known.killed) = contents
                if saved is not None:
                    known.unlatch(saved)
                changed = self._swap()
        self._tell(changed)

    def lower(
        self, feature: str | None, *, actor: str, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> Lowering:
        """
        Put a feature, or all of them, to 0 % and latch it there: in memory, in this very call.

        Does not block; `persist` makes it durable.

        Args:
            feature: Which; None is all.
            actor: Who does it.
            reason: Why.
            evidence: What was seen that led to it, for the audit.

        Raises:
            NotFoundError: no such feature; nothing changed.
        """
        return self._lower(self._names(feature), actor=actor, reason=reason, evidence=evidence)

    def kill(self, *, actor: str, reason: str) -> Lowering:
        """Engage the kill switch, in memory and in this very call; `persist` makes it durable."""
        return self._lower(self._names(None), kills=True, actor=actor, reason=reason, evidence=None)

    def _lower(
        self,
        names: tuple[str, ...],
        *,
        kills: bool = False,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any] | None,
    ) -> Lowering:
        began_s = self._clock()
        now_unix_s = self._unix_clock()
        with self._swapping:
            before = self._snapshot
            latches: dict[str, State] = {}
            for name in (KILL_SWITCH,) if kills else names:
                # A copy each time: two lowerings of one feature are told apart by their latches.
                state = replace(before.states.get(name, State(feature=name)))
                latches[name] = roll_back(state, now_unix_s=now_unix_s, actor=actor, reason=reason)
            self._known.latched |= latches
            changed = self._swap()
        flip_s = self._clock() - began_s
        self._tell(changed)
        return Lowering(
            features=names,
            kills=kills,
            actor=actor,
            reason=reason,
            evidence=evidence,
            at_unix_s=now_unix_s,
            began_s=began_s,
            flip_s=flip_s,
            before=before,
            latches=latches,
        )

    def persist(self, lowering: Lowering) -> RollbackDone:
        """
        Write down what is in force in memory. Blocks until it is saved: call it in a thread.

        Raises:
            RollbackNotDurableError: not saved; `done` tells the rest. It is tried again by the thread that
                watches the ledger.
        """
        try:
            rows = lowering.write(self._ledger)
        except LedgerError as error:
            self._note_failure(lowering, error)
            names = "everything" if lowering.kills else ", ".join(lowering.features)
            raise RollbackNotDurableError(
                f"{names} off for new requests, and not saved: {error}",
                done=lowering.done({}, durable_s=None),
            ) from error
        durable_s = self._clock() - lowering.began_s
        if lowering in self._unsaved:
            self._unsaved.remove(lowering)
        self.refresh(saved=lowering)
        if lowering.kills:
            log.warning("killed", extra=lowering.record(durable_s=durable_s))
        else:
            log.warning("rolled_back", extra=lowering.record(durable_s=durable_s))
        self._on_lowered(lowering)
        return lowering.done(rows, durable_s=durable_s)

    def rollback(self, feature: str | None, *, actor: str, reason: str) -> RollbackDone:
        """
        Put a feature, or all of them, to 0 % and latch it there: in memory at once, then in the ledger.

        Blocks until it is saved: call it in a thread.

        Raises:
            NotFoundError: no such feature; nothing changed.
            RollbackNotDurableError: in force and not saved; `done` tells the rest.
        """
        return self.persist(self.lower(feature, actor=actor, reason=reason))

    def _note_failure(self, lowering: Lowering, error: LedgerError) -> None:
        self._on_unsaved()
        self._retry_s = self._clock() + RETRY_S
        if lowering not in self._unsaved:
            self._unsaved.append(lowering)
            log.error("lowering_not_saved", extra=lowering.record() | {"problem": str(error)})

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
        self._read_s = self._clock()
        self.evidence = contents.evidence
        return states, contents.revision, contents.killed

    def _swap(self) -> FlagSnapshot | None:
        """Compile what is known and put it in force; return it where a share changed."""
        before, self._snapshot = self._snapshot, self._known.compile()
        return None if before.shares == self._snapshot.shares else self._snapshot

    def _tell(self, changed: FlagSnapshot | None) -> None:
        if changed is not None and self._on_change is not None:
            self._on_change(changed)

    def look(self, watch: Watch) -> None:
        """Do once what the thread does at every poll: take up what changed, write what was not saved."""
        if self._noticed(watch):
            self.refresh()
        if self._clock() >= self._retry_s:
            self._save_again()

    def _save_again(self) -> None:
        for lowering in tuple(self._unsaved):
            with suppress(RollbackNotDurableError):
                self.persist(lowering)

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
            if watch.changed() or self.problem is not None:
                return True
        except LedgerError:
            return True
        self._read_s = self._clock()
        return False
