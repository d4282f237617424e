"""
Runs the controllers of all features: facts of requests in, decisions out to the board and to the ledger.

Theory of operation: a request's flags and its sides are fixed together, from one snapshot (`assign`). What
happens to it is told to the controllers of the features that it is a canary or a control of. A rollback is in
force within the very call that reports the deciding failure; a thread saves it. What raises exposure, or
leaves it as it is, is decided on the tick and written first, by a thread, at the revision that was judged:
where somebody changed the feature meanwhile nothing is written, and the next tick judges anew.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from rollout.assignment import key_of
from rollout.controller import Controller
from rollout.decisions import Hold, Pause, Promote, RollBack
from rollout.guards import Arm
from rollout.spec import FULL_MILLIPERCENT, Key
from rollout.stages import Input, State, apply
from wicketgate.assigned import Assigned, Side
from wicketgate.ending import Ending
from wicketgate.errors import LedgerError, RevisionConflictError
from wicketgate.flags import RollbackNotDurableError
from wicketgate.lowering import AUTOMATIC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.assignment import FlagSnapshot
    from rollout.decisions import Decision
    from rollout.guards import GuardParams
    from rollout.spec import Feature, Trouble
    from rollout.verdict import Judged
    from wicketgate.flags import FlagBoard, Lowering
    from wicketgate.inference import InferenceRequest
    from wicketgate.ledger import Ledger
    from wicketgate.metrics import Metrics

TICK_S: Final = 0.25
"""How often `tick` is to be called."""
SAVE_S: Final = 60.0
"""How often evidence is saved: so much of it a crash may cost."""
PROMOTION: Final = "promotion"
"""The core that promotes and holds, after `auto:` where a guard stands otherwise."""

log = logging.getLogger(__name__)


class Rollouts:
    """
    The rollouts of one gateway. Everything is called on the event loop, but `save`, which blocks.

    Args:
        board: Has the flags, and lowers them.
        ledger: Where what raises exposure is written, and evidence is kept.
        params: What the guards hold.
        metrics: Where decisions are counted.
        offload: Runs what blocks in a thread; what it is given raises nothing.
        clock: Monotonic seconds.
        unix_clock: Wall time, for the record.
    """

    def __init__(
        self,
        board: FlagBoard,
        ledger: Ledger,
        *,
        params: GuardParams,
        metrics: Metrics,
        offload: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._board = board
        self._ledger = ledger
        self.params = params
        """What the guards hold."""
        self._metrics = metrics
        self._offload = offload
        self._clock = clock
        self._unix_clock = unix_clock
        self._controllers = {
            name: Controller(name, params, saved=board.evidence.get(name))
            for name in board.snapshot.spec.features
        }
        self._unsettled: list[Assigned] = []
        self._writing: set[str] = set()
        """Features that a decision is being written of."""
        self._entries: dict[str, float | None] = {}
        self._save_s = clock() + SAVE_S
        self._begin()
        self._saved: Mapping[str, Mapping[str, object]] = self._documents()

    # Requests

    def assign(self, request: InferenceRequest) -> Assigned:
        """Decide all flags of a request, and what it is a sample of."""
        snapshot = self._board.snapshot
        if snapshot is not self._snapshot:
            self._follow(snapshot)
        connection = request.connection
        on = snapshot.assign(request.key, client=request.client, connection=connection).on
        self._metrics.decisions.count(snapshot, on, request.key_source)
        known = self._assigned[connection is None]
        return known.get(on) or known.setdefault(on, self._sample(on, connection))

    def _sample(self, on: frozenset[str], connection: str | None) -> Assigned:
        """
        Work out the sides of requests that are on these features.

        Who could not have been on is no control: one of a feature that is at 0 %, one that lacks a
        prerequisite, one that has nothing that the feature is decided by.
        """
        snapshot = self._snapshot
        sides: list[Side] = []
        compared: list[Side] = []
        for feature in snapshot.spec.in_order():
            name = feature.name
            share = snapshot.shares[name].millipercent
            could_be_on = share > 0 and on.issuperset(feature.requires)
            has_key = key_of(feature, "", client=None, connection=connection) is not None
            if name in on or (could_be_on and has_key):
                arm = Arm.CANARY if name in on else Arm.CONTROL
                special = feature if feature.key in (Key.CONNECTION, Key.CLIENT) else None
                controller = self._controllers[name]
                sides.append(Side(controller, arm, special, controller.begun))
                if share < FULL_MILLIPERCENT:
                    compared.append(sides[-1])
        return Assigned(on, snapshot.revision, tuple(sides), tuple(compared))

    def arrived(self, assigned: Assigned, request: InferenceRequest) -> None:
        """A request was admitted, waits, or is about to be refused."""
        for controller, arm, special, begun in assigned.compared:
            if begun == controller.begun:
                controller.arrived(arm, _key(special, request))

    def first_token(self, assigned: Assigned, *, ttft_s: float) -> None:
        """Its first token came."""
        for controller, arm, _, begun in assigned.compared:
            if begun == controller.begun:
                controller.first_token(arm, ttft_s)

    def ended(
        self, assigned: Assigned, request: InferenceRequest, *, ending: Ending, tpot_s: float | None
    ) -> None:
        """
        It ended, or is counted as failed while it goes on; once for a request.

        Args:
            assigned: Its flags.
            request: Itself.
            ending: What its end says.
            tpot_s: Time per token after the first; None where there was none, or where it says nothing.
        """
        if ending is Ending.OK:  # nearly all of them
            if not assigned.finished:
                self._unsettled.append(assigned)
            assigned.finished += 1
            for controller, arm, _, begun in assigned.compared:
                if begun == controller.begun:
                    controller.ended(arm, failed=False, key=0, tpot_s=tpot_s)
            return
        self._settle()
        for side in assigned.sides:
            if side.begun == side.controller.begun and self._tell(side, request, ending):
                return

    def _settle(self) -> None:
        """Tell features that all requests are on of those that ended well: a number, instead of each."""
        for assigned in self._unsettled:
            for side in assigned.sides:
                if side.begun == side.controller.begun and side not in assigned.compared:
                    side.controller.finished(side.arm, assigned.finished)
            assigned.finished = 0
        self._unsettled.clear()

    def _tell(self, side: Side, request: InferenceRequest, ending: Ending) -> bool:
        """
        Tell one feature how a request ended that did not end well.

        Returns:
            Whether that rolled it back. It explains the failure, which is not held against the others that
            the request was on: one more will show it if they are to blame.
        """
        controller, arm, special, _ = side
        match ending:
            case Ending.FAILED:
                began_s = self._clock()
                decision = controller.ended(arm, failed=True, key=_key(special, request))
                if decision is not None:
                    self._roll_back(decision, detect_s=self._clock() - began_s)
                    return True
            case Ending.REFUSED:
                controller.refused(arm)
            case Ending.INFRASTRUCTURE:
                controller.infrastructure(arm)
            case _:  # ignored
                pass
        return False

    # The rest of the world

    def trouble(self, trouble: Trouble) -> None:
        """Tell of trouble that stages may ask to be without; again and again while it lasts."""
        for controller in self._controllers.values():
            controller.trouble(trouble)

    def tick(self) -> None:
        """Judge every feature, and save the evidence when it is due."""
        self._settle()
        if self._board.snapshot is not self._snapshot:
            self._follow(self._board.snapshot)
        now_s = self._clock()
        for controller in self._controllers.values():
            self._judge(controller, now_s=now_s)
        if now_s >= self._save_s:
            self._save_s = now_s + SAVE_S
            documents = self._unsaved_documents()
            if documents:
                self._offload(lambda: self._save(documents))

    def _judge(self, controller: Controller, *, now_s: float) -> None:
        """Judge one feature. The gateway outlives what is wrong with it, and evidence may always be lost."""
        feature = {"feature": controller.feature}
        try:
            decisions = controller.advance(now_s=now_s)
        except Exception:
            log.exception("rollout_not_judged", extra=feature)
            controller.begin_anew(self.params, saved=None)
            self._follow(self._board.snapshot)
            return
        for decision in decisions:
            try:
                self._carry_out(decision)
            except Exception:  # the controller gives it again
                log.exception("rollout_not_moved", extra=feature)

    def reconfigure(self, params: GuardParams) -> None:
        """Let the guards hold something else; what was gathered under other rules begins anew."""
        if params != self.params:
            self.params = params
            # The same controllers: requests in flight must not go on to tell, and to move, those of before.
            for controller in self._controllers.values():
                controller.begin_anew(params, saved=controller.document())
            self._begin()

    def judged(self) -> dict[str, Judged]:
        """Return of each feature that is watched what it has shown, and whether its stage may be left."""
        self._settle()
        judged = {name: controller.judged() for name, controller in self._controllers.items()}
        return {name: each for name, each in judged.items() if each is not None}

    def save(self) -> None:
        """Save the evidence, at the end. Blocks."""
        documents = self._unsaved_documents()
        if documents:
            self._save(documents)

    # Following

    def _begin(self) -> None:
        """Follow for the first time, and tell what was saved in vain."""
        self._follow(self._board.snapshot)
        for name, controller in self._controllers.items():
            if controller.problem is not None:
                log.warning("evidence_lost", extra={"feature": name, "problem": controller.problem})

    def _follow(self, snapshot: FlagSnapshot) -> None:
        """Take up what is in force now."""
        self._settle()
        self._snapshot = snapshot
        self._assigned: tuple[dict[frozenset[str], Assigned], ...] = ({}, {})
        self._metrics.transitions.follow(snapshot.states)
        for controller in self._controllers.values():
            controller.follow(snapshot)
        entries = {name: state.entered_unix_s for name, state in snapshot.states.items()}
        if entries != self._entries:
            # Somebody entered a stage: a crash must not give it the evidence of the one before.
            self._entries = entries
            self._save_s = self._clock()

    # Decisions

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case RollBack():
                self._roll_back(decision)
            case Pause(guard=guard):
                self._change(decision, Input.PAUSE, actor=guard)
            case Hold():
                self._change(decision, Input.HOLD, actor=PROMOTION)
            case Promote():
                self._change(decision, Input.PROMOTE, actor=PROMOTION)

    def _roll_back(self, decision: RollBack, *, detect_s: float | None = None) -> None:
        """Lower first, in this very call, and let a thread save it."""
        name, guard = decision.feature, decision.guard
        lowering = self._board.lower(
            name,
            actor=AUTOMATIC + guard,
            reason=decision.why,
            evidence={**decision.evidence, "guard": guard, "attribution": decision.attribution},
        )
        self._follow(self._board.snapshot)
        self._metrics.rolled_back(name, trigger=guard, attribution=decision.attribution)
        self._offload(lambda: self._persist(lowering, detect_s))

    def _persist(self, lowering: Lowering, detect_s: float | None) -> None:
        durable_s = None
        try:
            durable_s = self._board.persist(lowering).durable_s
        except RollbackNotDurableError:
            pass  # logged, and tried again by the thread that watches the ledger
        except Exception:
            log.exception("rollout_write_failed", extra={"feature": lowering.features[0]})
        self._metrics.rollback_took(flip_s=lowering.flip_s, durable_s=durable_s, detect_s=detect_s)

    def _change(self, decision: Pause | Hold | Promote, given: Input, *, actor: str) -> None:
        """Write what does not lower at the revision that was judged; the board takes it up from there."""
        name, snapshot = decision.feature, self._snapshot
        before = snapshot.states.get(name, State(feature=name))
        after = apply(
            before,
            given,
            spec=snapshot.spec,
            now_unix_s=self._unix_clock(),
            actor=AUTOMATIC + actor,
            reason=decision.why,
        )
        if name not in self._writing and after is not before:
            self._writing.add(name)
            self._offload(lambda: self._write(given, after, decision.evidence))

    def _write(self, given: Input, after: State, evidence: Mapping[str, object]) -> None:
        name = after.feature
        try:
            self._ledger.change(
                [name],
                lambda *_: after.document(),
                action=given,
                actor=after.actor,
                reason=after.reason,
                expect_revision=after.revision,
                evidence=evidence,
            )
            log.info("rollout_moved", extra={"feature": name, "to": after.phase, "stage": after.stage})
        except RevisionConflictError:
            pass  # somebody was quicker; the next tick judges what he made of it
        except LedgerError as error:
            log.warning("rollout_not_moved", extra={"feature": name, "problem": error.message})
        except Exception:
            log.exception("rollout_write_failed", extra={"feature": name})
        finally:
            self._board.refresh()
            self._writing.discard(name)

    # Evidence

    def _documents(self) -> dict[str, Mapping[str, object]]:
        self._settle()
        documents = {name: controller.document() for name, controller in self._controllers.items()}
        return {name: each for name, each in documents.items() if each is not None}

    def _unsaved_documents(self) -> dict[str, Mapping[str, object]]:
        documents = self._documents()
        return {name: each for name, each in documents.items() if self._saved.get(name) != each}

    def _save(self, documents: Mapping[str, Mapping[str, object]]) -> None:
        try:
            self._ledger.save_evidence(documents)
            self._saved = {**self._saved, **documents}
        except LedgerError as error:
            log.warning("evidence_not_saved", extra={"problem": error.message})


def _key(special: Feature | None, request: InferenceRequest) -> int:
    """Return a number that stands, in this process, for what a feature is decided by of this request."""
    if special is None:
        return hash(request.key)
    return hash(key_of(special, request.key, client=request.client, connection=request.connection))
