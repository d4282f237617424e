"""One request's facts reach figures, monitor, rollouts, metrics and the log line once, and agree."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from qos.figures import Figures
from qos.objective import Objective, Signal
from qos.policy import Monitor, MonitorParams
from qos.window import WindowParams
from tests.fakes import Clock, FakeRollouts, request
from wicketgate.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    UnavailableError,
    WicketgateError,
)
from wicketgate.inference import Finished, FinishReason
from wicketgate.metrics import Metrics
from wicketgate.recorder import Record, Recorder, Sink

FEATURES = ("adaptive_governor", "qos_monitoring", "ttft_pipeline")
ON = frozenset(FEATURES)
ERRORS = Objective(name="errors", signal=Signal.ERROR, target_ratio=0.999)
GAPS = Objective(name="itl", signal=Signal.ITL, target_ratio=0.95, threshold_s=0.05)


class Desk:
    """A recorder with everything behind it."""

    def __init__(self, *, log_requests: bool = True, models: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.metrics = Metrics(CollectorRegistry(), models=("demo",), features=FEATURES)
        self.figures = Figures(WindowParams(), now_s=self.clock())
        self.monitor = Monitor(MonitorParams(objectives=(ERRORS, GAPS)), now_s=self.clock())
        self.rollouts = FakeRollouts()
        sink = Sink(figures=self.figures, monitor=self.monitor, metrics=self.metrics, rollouts=self.rollouts)
        self.recorder = Recorder(sink, models=models, clock=self.clock)
        self.recorder.log_requests = log_requests

    def arrive(self, name: str = "r1", *, on: frozenset[str] = ON) -> Record:
        return self.recorder.arrived(request(name, arrived_s=self.clock()), self.rollouts.assigned(on))

    def judged(self, name: str) -> int:
        verdicts = self.monitor.verdicts(now_s=self.clock())
        return next(verdict.total for verdict in verdicts if verdict.objective == name)


def finished(reason: FinishReason = FinishReason.STOP, **more: object) -> Finished:
    return Finished(reason=reason, prompt_tokens=5, completion_tokens=3, **more)


def run_one(desk: Desk, *, on: frozenset[str] = ON) -> None:
    record = desk.arrive(on=on)
    desk.clock.advance(0.1)
    desk.recorder.admitted(record)
    desk.recorder.started(record, prompt_tokens=5)
    desk.clock.advance(0.2)
    desk.recorder.tokens(record, count=1, cached_tokens=4)
    desk.clock.advance(0.4)
    desk.recorder.tokens(record, count=2, cached_tokens=4)
    desk.recorder.finished(record, finished())


def test_the_log_line_tells_the_whole_request(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    with caplog.at_level(logging.INFO, logger="wicketgate.requests"):
        run_one(desk)

    (entry,) = caplog.records

    assert entry.getMessage() == "request"
    assert vars(entry) | {
        "request_id": "r1",
        "outcome": "ok",
        "status": 200,
        "code": "stop",
        "on": sorted(ON),
        "revision": 1,
        "queue_s": 0.1,
        "ttft_s": 0.3,
        "tpot_s": 0.2,
        "duration_s": 0.7,
        "prompt_tokens": 5,
        "cached_tokens": 4,
        "completion_tokens": 3,
    } == vars(entry)


def test_no_text_of_the_user_is_in_the_log_line(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    with caplog.at_level(logging.INFO, logger="wicketgate.requests"):
        run_one(desk)

    assert "hello" not in str(vars(caplog.records[0]))


def test_the_log_line_can_be_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wicketgate.requests"):
        run_one(Desk(log_requests=False))

    assert caplog.records == []


def test_the_first_token_is_measured_from_arrival() -> None:
    desk = Desk()
    run_one(desk)

    quantiles = desk.figures.ttft(now_s=desk.clock())

    assert quantiles is not None
    assert quantiles.p95 == pytest.approx(0.3)


def test_a_request_off_qos_monitoring_counts_in_the_figures_and_not_in_the_objectives() -> None:
    desk = Desk()

    run_one(desk, on=frozenset())

    assert desk.figures.ttft(now_s=desk.clock()) is not None
    assert desk.judged("errors") == 0


def test_both_arms_of_every_feature_are_counted() -> None:
    desk = Desk()

    run_one(desk, on=frozenset({"ttft_pipeline"}))

    page = desk.metrics.render().decode()
    assert 'rollout_requests_total{arm="canary",feature="ttft_pipeline",outcome="ok"} 1.0' in page
    assert 'rollout_requests_total{arm="control",feature="adaptive_governor",outcome="ok"} 1.0' in page


def test_an_end_counts_once() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.recorder.cancelled(record)

    desk.recorder.finished(record, finished())

    assert desk.figures.error_ratio(now_s=desk.clock()) is None
    assert desk.recorder.live == 0


@pytest.mark.parametrize(
    ("reason", "error", "outcome"),
    [
        (FinishReason.LENGTH, None, "ok"),
        (FinishReason.CANCELLED, None, "cancelled"),
        (FinishReason.ERROR, None, "error"),
        (FinishReason.ERROR, DeadlineExceededError("too long"), "deadline"),
    ],
)
def test_each_end_has_its_outcome(
    reason: FinishReason, error: DeadlineExceededError | None, outcome: str
) -> None:
    desk = Desk()
    record = desk.arrive()

    desk.recorder.finished(record, finished(reason, error=error))

    assert f'outcome="{outcome}"}} 1.0' in desk.metrics.render().decode()


def test_a_refusal_is_no_error_and_is_timed() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.clock.advance(0.004)

    desk.recorder.refused(record, status=429, code="overloaded")

    page = desk.metrics.render().decode()
    assert desk.figures.error_ratio(now_s=desk.clock()) is None
    assert 'wicketgate_refusal_seconds_bucket{class="interactive",le="0.005"} 1.0' in page
    assert desk.recorder.shed == 1


def test_an_unavailable_engine_is_a_failure() -> None:
    desk = Desk()
    record = desk.arrive()

    desk.recorder.unavailable(record, status=503, code="engine_restarting")

    assert desk.figures.error_ratio(now_s=desk.clock()) == 1.0


def test_an_invalid_request_is_neither_served_nor_failed() -> None:
    desk = Desk()
    record = desk.arrive()

    desk.recorder.invalid(record, status=400, code="context_length_exceeded")

    assert desk.figures.error_ratio(now_s=desk.clock()) is None


def test_a_prompt_that_the_engine_refuses_is_invalid_and_no_failure() -> None:
    desk = Desk()
    record = desk.arrive()

    error = InvalidRequestError("the engine refused it")
    desk.recorder.finished(record, finished(FinishReason.ERROR, error=error))

    assert desk.figures.error_ratio(now_s=desk.clock()) is None
    assert desk.rollouts.endings == ["ignored"]


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "failed"),
        (EngineFailedError("the engine died twice while it ran this request alone"), "failed"),
        (DeadlineExceededError("too long"), "failed"),
        (UnavailableError("no memory", code="memory"), "refused"),
        (UnavailableError("the engine is stopping", code="draining"), "infrastructure"),
        (UnavailableError("the engine does not run", code="engine_down"), "infrastructure"),
    ],
)
def test_each_error_of_a_stream_says_something_else_of_its_features(
    error: WicketgateError | None, ending: str
) -> None:
    desk = Desk()
    record = desk.arrive()

    desk.recorder.finished(record, finished(FinishReason.ERROR, error=error))

    assert desk.rollouts.endings == [ending]


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("overloaded", "refused"),
        ("memory", "refused"),
        ("starting", "infrastructure"),
        ("draining", "infrastructure"),
    ],
)
def test_a_refusal_says_something_of_the_features_only_where_admission_refused(
    code: str, ending: str
) -> None:
    desk = Desk()

    desk.recorder.refused(desk.arrive(), status=503, code=code)

    assert desk.rollouts.endings == [ending]


@pytest.mark.parametrize(
    ("code", "ending"),
    [("engine_restarting", "infrastructure"), ("engine_down", "infrastructure"), ("drill", "failed")],
)
def test_what_could_not_be_served_is_no_failure_of_a_feature_while_there_is_no_engine(
    code: str, ending: str
) -> None:
    desk = Desk()

    desk.recorder.unavailable(desk.arrive(), status=503, code=code)

    assert desk.rollouts.endings == [ending]


def test_a_client_that_goes_away_says_nothing_of_the_features() -> None:
    desk = Desk()

    desk.recorder.cancelled(desk.arrive())

    assert desk.rollouts.endings == ["ignored"]


def test_a_finished_request_tells_the_rollouts_its_times() -> None:
    desk = Desk()

    run_one(desk)

    assert desk.rollouts.ttfts_s == [pytest.approx(0.3)]
    assert desk.rollouts.endings == ["ok"]
    assert desk.rollouts.tpots_s == [pytest.approx(0.2)]


def test_a_request_without_a_first_token_at_the_deadline_has_failed_once_though_it_goes_on() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.clock.advance(9.9)
    desk.recorder.check_first_tokens(deadline_s=10.0)
    early = list(desk.rollouts.endings)
    desk.clock.advance(0.2)

    desk.recorder.check_first_tokens(deadline_s=10.0)
    desk.recorder.check_first_tokens(deadline_s=10.0)
    desk.recorder.finished(record, finished())

    assert (early, desk.rollouts.endings) == ([], ["failed"])
    assert 'outcome="ok"} 1.0' in desk.metrics.render().decode()


def test_a_first_token_in_time_meets_the_deadline_however_long_the_answer_takes() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.recorder.tokens(record, count=1, cached_tokens=0)
    desk.clock.advance(100.0)

    desk.recorder.check_first_tokens(deadline_s=10.0)

    assert desk.rollouts.endings == []


def test_only_those_that_arrived_before_the_deadline_are_late() -> None:
    desk = Desk()
    desk.arrive("a")
    desk.clock.advance(6.0)
    desk.arrive("b")
    desk.clock.advance(6.0)

    desk.recorder.check_first_tokens(deadline_s=10.0)

    assert desk.rollouts.endings == ["failed"]
    assert desk.recorder.oldest_waiting_s() == 6.0


def test_a_request_that_waited_for_an_engine_host_is_late_through_no_fault_of_its_features() -> None:
    desk = Desk()
    desk.arrive()
    desk.recorder.engine_lost("demo")
    desk.clock.advance(11.0)
    desk.recorder.engine_ready("demo")

    desk.recorder.check_first_tokens(deadline_s=10.0)

    assert desk.rollouts.endings == ["infrastructure"]


def test_a_request_that_waits_for_the_first_start_of_a_model_is_late_through_no_fault_of_its_features() -> (
    None
):
    desk = Desk(models=("demo",))
    desk.arrive()
    desk.clock.advance(11.0)

    desk.recorder.check_first_tokens(deadline_s=10.0)

    assert desk.rollouts.endings == ["infrastructure"]


def test_the_times_of_a_stream_that_outlived_its_engine_host_are_left_out() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.recorder.engine_lost("demo")
    desk.clock.advance(1.0)
    desk.recorder.engine_ready("demo")
    desk.clock.advance(1.0)
    desk.recorder.tokens(record, count=3, cached_tokens=0)
    desk.clock.advance(1.0)

    desk.recorder.finished(record, finished())

    assert desk.rollouts.ttfts_s == []
    assert (desk.rollouts.endings, desk.rollouts.tpots_s) == (["ok"], [None])


def test_a_deadline_missed_because_there_was_no_engine_host_is_infrastructure() -> None:
    desk = Desk()
    record = desk.arrive()
    desk.recorder.engine_lost("demo")
    desk.clock.advance(1.0)

    error = DeadlineExceededError("too long")
    desk.recorder.finished(record, finished(FinishReason.ERROR, error=error))

    assert desk.rollouts.endings == ["infrastructure"]


def test_what_comes_after_the_engine_host_is_back_is_judged_again() -> None:
    desk = Desk()
    desk.recorder.engine_lost("demo")
    desk.recorder.engine_ready("demo")
    desk.clock.advance(0.1)
    desk.arrive()
    desk.clock.advance(11.0)

    desk.recorder.check_first_tokens(deadline_s=10.0)

    assert desk.rollouts.endings == ["failed"]


def test_a_gap_is_weighted_by_the_streams_that_saw_it() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=30, rows=32)

    gap = desk.recorder.step("demo", at_s=1.02, tokens=35, rows=35)

    assert gap is not None
    assert (gap.gap_s, gap.streams) == (pytest.approx(0.02), 32)
    assert desk.metrics.gaps["demo"].sum_s == pytest.approx(0.64)
    assert sum(desk.metrics.gaps["demo"].counts) == 32
    assert desk.judged("itl") == 32


def test_a_step_after_an_empty_batch_is_no_gap() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=1, rows=0)

    assert desk.recorder.step("demo", at_s=9.0, tokens=1, rows=1) is None
    assert desk.figures.itl(now_s=desk.clock()) is None
    assert desk.figures.throughput_tps(now_s=desk.clock()) > 0


def test_a_step_without_tokens_is_no_gap() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=1, rows=1)

    assert desk.recorder.step("demo", at_s=1.1, tokens=0, rows=1) is None


def test_no_gap_spans_two_hosts() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=4, rows=4)
    desk.recorder.engine_lost("demo")

    assert desk.recorder.step("demo", at_s=3.0, tokens=4, rows=4) is None


def test_sampling_judges_one_step_in_n_with_its_weight() -> None:
    desk = Desk()
    desk.recorder.itl_sample_rate = 10

    for number in range(21):
        desk.recorder.step("demo", at_s=number * 0.02, tokens=4, rows=4)

    assert desk.judged("itl") == 80
    assert sum(desk.metrics.gaps["demo"].counts) == 80


def test_requests_in_flight_on_a_feature_are_those_with_a_ticket() -> None:
    desk = Desk()
    admitted = desk.arrive("a")
    desk.arrive("b")
    desk.recorder.admitted(admitted)

    assert desk.recorder.on_in_flight("ttft_pipeline") == 1


def test_the_oldest_waiting_request_gives_its_age() -> None:
    desk = Desk()
    first = desk.arrive("a")
    desk.clock.advance(2.0)
    assert desk.recorder.oldest_waiting_s() == 2.0

    desk.recorder.tokens(first, count=1, cached_tokens=0)

    assert desk.recorder.oldest_waiting_s() == 0.0


def test_steps_of_two_models_make_no_gap_with_each_other() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=4, rows=4)

    assert desk.recorder.step("other", at_s=1.01, tokens=4, rows=4) is None


def test_first_tokens_told_before_the_end_of_a_step_count_as_tokens_and_make_no_gap() -> None:
    desk = Desk()
    desk.recorder.step("demo", at_s=1.0, tokens=4, rows=4)

    early = desk.recorder.step("demo", at_s=1.01, tokens=1, rows=5, is_early=True)
    gap = desk.recorder.step("demo", at_s=1.02, tokens=5, rows=5)

    assert early is None
    assert gap is not None
    assert gap.gap_s == pytest.approx(0.02)
