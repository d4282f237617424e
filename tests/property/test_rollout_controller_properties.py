"""
Invariants of what decides: no data, no action; no jump of a clock promotes; order in a tick changes nothing.

The state machine plays a person, traffic, a gateway that restarts and a ledger that may lose a write, all in
any order, against one controller. It keeps books of its own about what the controller may know.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollout.assignment import FlagSnapshot
from rollout.controller import Controller
from rollout.decisions import Hold, Pause, Promote, RollBack
from rollout.evidence import Evidence
from rollout.guards import Arm, Guard, GuardParams
from rollout.spec import Feature, Mode, Spec, Stage, Trouble
from rollout.stages import Input, Phase, State, TransitionError, apply, state_from

PARAMS = GuardParams(error_limit_ratio=0.01)
STAGES = (
    Stage(name="canary", percentage=10.0, hold_s=4.0, promote_below_percent=20.0),
    Stage(name="mid", percentage=50.0, hold_s=6.0, promote_below_percent=20.0, quiet=(Trouble.RESOURCE,)),
    Stage(name="full", percentage=100.0),
)
CLEAN_REQUESTS = 24
"""Fewer cannot exclude 20 %: even the largest bet multiplies by 1/0.8 at most, and 0.8^-20 is below 100."""
INPUT_OF = {RollBack: Input.ROLLBACK, Pause: Input.PAUSE, Hold: Input.HOLD, Promote: Input.PROMOTE}
counts = st.integers(0, 60)
arms = st.sampled_from(Arm)


class Rollout(RuleBasedStateMachine):
    """One feature, its controller, and everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.feature = Feature(name="f", mode=Mode.STAGED, expects=())
        self.state = State(feature="f")
        self.killed = False
        self.now_s = self.unix_s = 1e6
        self.controller = Controller("f", PARAMS)
        self.key = 0
        self._open_books()
        self._follow()

    def _open_books(self) -> None:
        """Begin to count what may be known about an entry to a stage."""
        self.finished = self.failed = self.others = 0
        self.time_s = 0.0
        self.asked: dict[type, float] = {}

    @property
    def spec(self) -> Spec:
        return Spec(features=MappingProxyType({"f": self.feature}), stages=STAGES)

    @property
    def snapshot(self) -> FlagSnapshot:
        return FlagSnapshot(self.spec, {"f": self.state}, revision=self.state.revision, killed=self.killed)

    def _follow(self) -> None:
        self.controller.follow(self.snapshot)

    def _apply(self, given_input: Input, **other) -> None:
        try:
            after = apply(self.state, given_input, spec=self.spec, now_unix_s=self.unix_s, actor="a", **other)
        except TransitionError:
            return
        if after.entered_unix_s != self.state.entered_unix_s:
            self._open_books()
        if after is not self.state:
            self.asked = {}
            self.state = replace(after, revision=self.state.revision + 1)
        self._follow()

    def _exposed(self) -> bool:
        return self.snapshot.shares["f"].millipercent > 0

    @initialize(compress=st.sampled_from([1.0, 2.0]))
    def somebody_starts_it(self, compress):
        self._apply(Input.START, compress=compress)

    @precondition(lambda self: self.state.phase in (Phase.OFF, Phase.ROLLED_BACK))
    @rule(stage=st.sampled_from([None, "mid", "full"]), compress=st.sampled_from([1.0, 2.0]))
    def somebody_starts_it_again(self, stage, compress):
        self._apply(Input.START, at_stage=stage, compress=compress)

    @rule(
        given_input=st.sampled_from([each for each in Input if each not in (Input.RESET, Input.HOLD)]),
        jump_s=st.sampled_from([1.0, 3.2e7, -3.1e7]),
    )
    def a_person_does_something(self, given_input, jump_s):
        self.unix_s += jump_s
        self._apply(given_input)

    @rule(switches=st.lists(st.booleans(), max_size=3))
    def somebody_kills_or_unkills(self, switches):
        for self.killed in [*switches, False]:
            self._follow()
            self.who_is_not_exposed_decides_nothing()

    @rule(percentage=st.sampled_from([5.0, 50.0, 100.0]))
    def somebody_edits_the_ceiling(self, percentage):
        self.feature = replace(self.feature, rollout_percentage=percentage)
        self._follow()

    @rule(passed=counts, failed=st.sampled_from([0, 0, 0, 0, 1, 3]), arm=arms, ttft_s=st.floats(0.01, 10))
    def requests_end(self, passed, failed, arm, ttft_s):
        decided = []
        for number in range(passed + failed):
            self.key += 1
            self.controller.arrived(arm, self.key)
            self.controller.first_token(arm, ttft_s)
            decided.append(self.controller.ended(arm, failed=number >= passed, key=self.key, tpot_s=0.01))
            if self._exposed() and arm is Arm.CANARY:
                self.finished += number < passed
                self.failed += number >= passed
        for decision in decided:
            self._check(decision)
            self._carry_out(decision, lost=False)
        self.others += 1

    @rule(arm=arms, many=st.integers(1, 5))
    def requests_are_refused_or_lost(self, arm, many):
        for _ in range(many):
            self.controller.refused(arm)
            self.controller.infrastructure(arm)
        self.others += 1

    @rule(trouble=st.sampled_from(Trouble))
    def there_is_trouble(self, trouble):
        self.controller.trouble(trouble)

    @rule(
        steps=st.lists(st.sampled_from([0.25, 0.25, 1.0, 5.0, 90.0, 3.2e7, -3.2e7]), min_size=1, max_size=20),
        busy=st.booleans(),
        lost=st.booleans(),
    )
    def time_passes(self, steps, busy, lost):
        for step_s in steps:
            if busy and self._exposed():
                self.controller.ended(Arm.CANARY, failed=False, key=0)
                self.finished += 1
            self.now_s += step_s
            self.time_s += min(max(step_s, 0.0), 2.0) if self._exposed() else 0.0
            for decision in self.controller.advance(now_s=self.now_s):
                self._check(decision)
                self._carry_out(decision, lost=lost)

    @rule()
    def the_gateway_restarts(self):
        document = self.controller.document()
        saved = None if document is None else json.loads(json.dumps(document, allow_nan=False))
        self.state = state_from("f", self.state.revision, json.loads(json.dumps(self.state.document())))
        self.controller = Controller("f", PARAMS, saved=saved)
        self.asked = {}
        self._follow()
        assert self.controller.problem is None

    def _check(self, decision) -> None:
        """Compare a decision with the books."""
        if decision is None:
            return
        assert self._exposed()
        json.dumps(decision.evidence, allow_nan=False)
        last_s = self.asked.get(type(decision))
        assert last_s is None or abs(self.now_s - last_s) >= 60 or self.now_s < last_s
        self.asked[type(decision)] = self.now_s
        match decision:
            case Promote():
                assert self.state.phase in (Phase.RUNNING, Phase.HOLDING)
                assert self.finished >= CLEAN_REQUESTS
                assert self.failed <= 0.01 * (self.finished + self.failed)
                hold_s = next(each.hold_s for each in STAGES if each.name == self.state.stage)
                assert self.time_s >= hold_s / self.state.compress - 1e-6
            case RollBack(guard=Guard.ERRORS | Guard.RELATIVE):
                assert self.failed >= 2
            case RollBack() | Pause():
                assert self.others
            case Hold():
                assert self.state.phase is Phase.RUNNING
                assert decision.why

    def _carry_out(self, decision, *, lost: bool) -> None:
        if decision is not None and not (lost and not isinstance(decision, RollBack)):
            self._apply(INPUT_OF[type(decision)])

    @precondition(lambda self: self.controller.judged() is not None)
    @invariant()
    def evidence_is_a_number_and_documents_are_small(self):
        findings = self.controller.judged().findings
        assert all(0 <= each.evidence < math.inf for each in findings.readings.values())
        assert len(json.dumps(self.controller.document())) < 20_000

    @invariant()
    def who_is_not_exposed_decides_nothing(self):
        if not self._exposed():
            assert self.controller.advance(now_s=self.now_s) == []
            assert self.controller.ended(Arm.CANARY, failed=True, key=self.key) is None


Rollout.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRollout = Rollout.TestCase


def staged(*, share: float = 50.0) -> Controller:
    """Follow a feature at its first stage."""
    stages = (replace(STAGES[0], percentage=share), STAGES[-1])
    spec = Spec(features={"f": Feature(name="f", mode=Mode.STAGED)}, stages=stages)
    state = apply(State(feature="f"), Input.START, spec=spec, now_unix_s=1.0, actor="a")
    controller = Controller("f", PARAMS)
    controller.follow(FlagSnapshot(spec, {"f": state}))
    return controller


@given(times=st.lists(st.floats(-1e9, 1e9), max_size=60))
def test_without_data_no_clock_moves_evidence_or_decides(times):
    controller = staged()

    decided = [controller.advance(now_s=each) for each in times]

    findings = controller.judged().findings
    assert decided == [[]] * len(times)
    assert [each.evidence for each in findings.readings.values()] == pytest.approx([1.0] * len(Guard))
    assert (findings.served_s, findings.promotion_evidence) == (0.0, pytest.approx(1.0))


@given(jumps=st.lists(st.sampled_from([31_536_000.0, -31_536_000.0, 0.25]), max_size=60))
def test_no_clock_that_jumps_serves_more_than_two_seconds_a_tick(jumps):
    evidence = Evidence(PARAMS, STAGES[0], share_ratio=0.1, plan_s=4.0)
    now_s = 0.0
    for step_s in jumps:
        now_s += step_s
        evidence.ended(Arm.CANARY, failed=False, key=0, tpot_s=None)
        evidence.fold(now_s=now_s)

    assert evidence.served_s <= 2.0 * len(jumps)


event = st.tuples(
    st.sampled_from(["passed", "failed", "refused", "lost"]), arms, st.integers(0, 5), st.floats(0.01, 10)
)


def tell(evidence: Evidence, events) -> None:
    """Tell of requests in one order."""
    for kind, arm, key, value_s in events:
        evidence.arrived(arm, key)
        evidence.first_token(arm, value_s)
        if kind == "refused":
            evidence.refused(arm)
        elif kind == "lost":
            evidence.infrastructure(arm)
        else:
            evidence.ended(arm, failed=kind == "failed", key=key, tpot_s=value_s)


@given(data=st.data(), events=st.lists(event, max_size=60))
def test_the_order_of_facts_within_a_tick_changes_no_evidence(data, events):
    one = Evidence(PARAMS, STAGES[0], share_ratio=0.5, plan_s=4.0)
    other = Evidence(PARAMS, STAGES[0], share_ratio=0.5, plan_s=4.0)
    warm_up = [("passed", Arm.CONTROL, number, 0.1 + 0.01 * number) for number in range(60)]
    for evidence, order in ((one, events), (other, data.draw(st.permutations(events)))):
        tell(evidence, warm_up)
        evidence.fold(now_s=0.0)
        # A key belongs to one arm: which of its two counts would be a matter of order.
        tell(evidence, [(kind, arm, key * 2 + (arm is Arm.CANARY), value) for kind, arm, key, value in order])
        evidence.fold(now_s=0.25)

    for guard in Guard:
        assert one.evidence(guard) == pytest.approx(other.evidence(guard), rel=1e-9)
    assert one.findings().canary == other.findings().canary
    assert one.findings().promotion_evidence == pytest.approx(other.findings().promotion_evidence, rel=1e-12)


@given(more=st.integers(1, 40), fewer=st.integers(0, 40), kind=st.sampled_from(["failed", "refused"]))
def test_who_swaps_the_arms_gets_the_opposite(more, fewer, kind):
    more += fewer
    guard = Guard.RELATIVE if kind == "failed" else Guard.REFUSED
    worse, better = (Evidence(PARAMS, STAGES[0], share_ratio=0.5, plan_s=4.0) for _ in range(2))
    for evidence, (canary, control) in ((worse, (more, fewer)), (better, (fewer, more))):
        tell(evidence, [(kind, Arm.CANARY, number, 0.1) for number in range(canary)])
        tell(evidence, [(kind, Arm.CONTROL, number, 0.1) for number in range(control)])
        evidence.fold(now_s=0.0)

    assert better.evidence(guard) < worse.evidence(guard)
    assert better.evidence(guard) <= 1
