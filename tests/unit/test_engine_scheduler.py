"""Pins what a step does: who computes, how much of it, who gives way, and who runs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wicketgate.engine.batch import Chunk
from wicketgate.engine.jobs import Job
from wicketgate.engine.kv.store import Prefix
from wicketgate.engine.memory import Budget
from wicketgate.engine.options import HostOptions
from wicketgate.engine.pace import Pace
from wicketgate.engine.scene import (
    Compute,
    Decode,
    JobChunk,
    Limits,
    Preempt,
    Refuse,
    Scene,
    Start,
    WarmChunk,
)
from wicketgate.engine.scheduler import FLOOR_TOKENS, SETTLED_TOKENS, chunk_time_s, due_s, plan, shed
from wicketgate.engine.streams import Stream
from wicketgate.engine.wire import Score, Submit

LIMITS = Limits.of(HostOptions(max_batch_size=4, prefill_batch_size=4, prefill_step_tokens=512))


def measured_pace(*, token_s: float = 0.001, decode_s: float = 0.005) -> Pace:
    pace = Pace(full_chunk_tokens=1000, full_chunk_s=1000 * token_s)
    pace.observe_decode(decode_s)
    return pace


def stream(key: int, prompt_tokens: int = 10, *, remaining: int | None = None, **fields: object) -> Stream:
    """Return a stream; `remaining` defaults to its whole prompt."""
    submit = {name: fields.pop(name) for name in ("priority", "max_tokens") if name in fields}
    message = Submit(id=key, prompt=[1] * prompt_tokens, seed=0, **({"max_tokens": 100} | submit))  # type: ignore[arg-type]
    made = Stream(message, float(key), prompt_tokens if remaining is None else remaining)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def row(key: int, *, emitted: int = 20, prompt_tokens: int = 10, **fields: object) -> Stream:
    return stream(key, prompt_tokens, remaining=0, emitted=[7] * emitted, **fields)


def score_job(key: int, tokens: int, *, priority: int = 2) -> Job:
    message = Score(id=key, query=[1], items=[[2]], labels=[[3]], priority=priority)
    return Job(message, float(key), tokens)


def scene(
    *,
    rows: tuple[Stream, ...] = (),
    prompts: tuple[Stream, ...] = (),
    waiting: tuple[Stream, ...] = (),
    jobs: tuple[Job, ...] = (),
    limits: Limits = LIMITS,
    pace: Pace | None = None,
    **fields: object,
) -> Scene:
    everybody = (*rows, *prompts, *waiting)
    return Scene(
        limits=limits,
        pace=pace or measured_pace(),
        rows={each.id: each for each in rows},
        prompts={each.id: each for each in prompts},
        waiting={each.id: each for each in waiting},
        jobs={each.id: each for each in jobs},
        on_trial={each.id: None for each in everybody if each.trial_tokens},
        **fields,  # type: ignore[arg-type]
    )


def chunks(actions: tuple[object, ...]) -> dict[int, int]:
    return {
        chunk.id: chunk.tokens for action in actions if isinstance(action, Compute) for chunk in action.chunks
    }


# Who computes


def test_with_nothing_to_do_nothing_is_done() -> None:
    assert plan(scene()) == ()


def test_rows_decode_in_every_step() -> None:
    assert plan(scene(rows=(row(1),))) == (Decode(),)
    assert plan(scene(rows=(row(1),), waiting=(stream(2),)))[-1] == Decode()


def test_a_stream_that_waits_starts_at_once_and_computes_in_the_same_step() -> None:
    assert plan(scene(waiting=(stream(1, 10),))) == (Start(1), Compute((Chunk(1, 10),)))


def test_a_first_token_is_not_held_back_by_a_decode_step_where_no_row_was_running() -> None:
    assert Decode() not in plan(scene(waiting=(stream(1, 10),)))


def test_the_shortest_remainder_goes_first_and_interrupts_a_longer_one() -> None:
    chosen = plan(scene(rows=(row(9),), prompts=(stream(1, 900, remaining=700),), waiting=(stream(2, 40),)))

    # 80 ms of the target without 5 ms of decoding hold 75 tokens; the 35 left are too few to split.
    assert chosen == (Start(2), Compute((Chunk(2, 40),)), Decode())


def test_what_a_short_prompt_leaves_of_the_time_goes_to_the_next() -> None:
    pace = measured_pace(token_s=0.0002)

    chosen = plan(scene(rows=(row(9),), prompts=(stream(1, 900),), waiting=(stream(2, 40),), pace=pace))

    assert list(chunks(chosen).items()) == [(2, 40), (1, 335)]


def test_short_prompts_go_side_by_side_up_to_the_prefill_batch() -> None:
    limits = replace(LIMITS, max_batch_size=100, prefill_batch_size=8)

    chosen = plan(scene(waiting=tuple(stream(key, 12) for key in range(1, 20)), limits=limits))

    assert chunks(chosen) == dict.fromkeys(range(1, 9), 12)


def test_a_short_prompt_waits_where_padding_to_it_would_take_too_long() -> None:
    waiting = tuple(stream(key, 4) for key in (1, 2, 3, 4, 5))
    limits = replace(LIMITS, max_batch_size=100, prefill_batch_size=8)

    # 5 x 4 tokens; with 30 side by side it would be 6 x 30, of 75 that there is time for.
    chosen = plan(scene(rows=(row(9),), waiting=(*waiting, stream(6, 30)), limits=limits))

    assert chunks(chosen) == dict.fromkeys(range(1, 6), 4)


def test_a_more_urgent_class_goes_before_a_shorter_prompt() -> None:
    chosen = plan(scene(waiting=(stream(1, 5, priority=2), stream(2, 100, priority=0)), rows=(row(9),)))

    assert next(iter(chunks(chosen))) == 2


def test_a_prompt_that_is_overdue_goes_first_in_its_class() -> None:
    late = stream(1, 3000, due_s=5.0)

    early = plan(scene(waiting=(late, stream(2, 20)), now_s=4.9, rows=(row(9),)))
    after = plan(scene(waiting=(late, stream(2, 20)), now_s=5.0, rows=(row(9),)))
    urgent = plan(scene(waiting=(late, stream(2, 20, priority=-1)), now_s=5.0, rows=(row(9),)))

    assert [next(iter(chunks(each))) for each in (early, after, urgent)] == [2, 1, 2]


def test_how_long_a_prompt_may_be_overtaken() -> None:
    assert due_s(arrived_s=10.0, first_come_s=2.0) == 10.0 + 1.5 * 2.0 + 0.25


# How much


def test_beside_rows_a_chunk_and_a_decode_step_stay_below_the_target() -> None:
    chosen = plan(scene(rows=(row(9),), waiting=(stream(1, 3000),)))

    assert chunks(chosen) == {1: 75}  # (0.8 x 100 ms - 5 ms) / 1 ms


def test_without_rows_a_chunk_may_take_two_targets() -> None:
    assert chunks(plan(scene(waiting=(stream(1, 3000),)))) == {1: 200}


def test_a_chunk_is_never_larger_than_asked_for_nor_smaller_than_the_floor() -> None:
    fast, slow = measured_pace(token_s=1e-6), measured_pace(token_s=1.0)

    assert chunks(plan(scene(waiting=(stream(1, 3000),), pace=fast))) == {1: 512}
    assert chunks(plan(scene(waiting=(stream(1, 3000),), pace=slow))) == {1: FLOOR_TOKENS}
    assert chunks(plan(scene(waiting=(stream(1, 3),), pace=slow))) == {1: 3}


def test_where_decoding_fills_the_target_prompts_still_get_half_of_it() -> None:
    assert chunk_time_s(LIMITS, measured_pace(decode_s=0.2)) == pytest.approx(0.05)
    assert chunk_time_s(LIMITS, measured_pace(decode_s=0.045)) == pytest.approx(0.045)
    assert chunk_time_s(LIMITS, measured_pace(decode_s=0.01)) == pytest.approx(0.07)


def test_chunks_pause_while_decoding_is_owed_time() -> None:
    owed = scene(rows=(row(9),), waiting=(stream(1),), jobs=(score_job(3, 10),), debt_s=0.001)
    idle = scene(waiting=(stream(1),), debt_s=0.001)

    assert plan(owed) == (Decode(),)
    assert chunks(plan(idle)) == {1: 10}


def test_for_each_second_of_chunks_decoding_is_owed_its_share() -> None:
    assert replace(LIMITS, decode_share_ratio=0.25).debt_per_chunk == pytest.approx(1 / 3)
    assert replace(LIMITS, decode_share_ratio=0.0).debt_per_chunk == 0.0


def test_without_the_turn_no_prompt_is_computed() -> None:
    limits = replace(LIMITS, prefill_turn=False)

    busy = scene(rows=(row(9),), waiting=(stream(1),), warm=5, limits=limits)
    idle = scene(prompts=(stream(1),), jobs=(score_job(3, 10),), warm=5, limits=limits)

    assert plan(busy) == (Decode(),)
    assert plan(idle) == ()


# Scores and warm jobs


def test_a_score_is_ordered_and_cut_like_a_prompt() -> None:
    chosen = plan(scene(rows=(row(9),), jobs=(score_job(1, 3000, priority=1),), waiting=(stream(2, 3000),)))
    alone = plan(scene(rows=(row(9),), jobs=(score_job(1, 3000),)))

    assert chunks(chosen) == {2: 75}
    assert alone == (JobChunk(1, 75), Decode())


def test_a_warm_job_gets_only_steps_that_nobody_needs() -> None:
    assert plan(scene(warm=5)) == (WarmChunk(5, 40),)  # 40 ms
    assert plan(scene(warm=5, rows=(row(1),))) == (Decode(),)
    assert not any(isinstance(each, WarmChunk) for each in plan(scene(warm=5, prompts=(stream(1),))))
    assert not any(isinstance(each, WarmChunk) for each in plan(scene(warm=5, waiting=(stream(1),))))


def test_a_warm_job_uses_the_time_in_which_streams_wait_for_the_disk() -> None:
    from_disk = stream(1, fetch=object())

    assert plan(scene(warm=5, waiting=(from_disk,))) == (WarmChunk(5, 40),)
    assert plan(scene(waiting=(from_disk,))) == ()


def test_a_warm_job_obeys_the_gateway_and_gives_way_to_memory() -> None:
    assert plan(scene(warm=5, limits=replace(LIMITS, warm_allowed=False))) == ()
    assert plan(scene(warm=5, admits=False)) == ()


# Who gives way


def full(**fields: object) -> tuple[Stream, ...]:
    return tuple(row(key, priority=1, **fields) for key in (11, 12, 13, 14))


def test_with_all_places_taken_equals_wait() -> None:
    assert plan(scene(rows=full(), waiting=(stream(1, priority=1),))) == (Decode(),)


def test_a_more_urgent_stream_takes_the_place_of_the_least_urgent_with_the_least_to_lose() -> None:
    rows = (row(11, priority=0), row(12, priority=2, emitted=90), row(13, priority=2), row(14, priority=1))

    chosen = plan(scene(rows=rows, waiting=(stream(1, priority=1), stream(2, priority=1))))

    assert chosen[:2] == (Preempt(13), Start(1))
    assert chosen[2:4] == (Preempt(12), Start(2))
    assert chunks(chosen) == {1: 10, 2: 10}


def test_a_stream_that_came_back_is_not_preempted_before_it_got_on() -> None:
    fresh = full(preempted=True, emitted=SETTLED_TOKENS - 1)
    settled = full(preempted=True, emitted=SETTLED_TOKENS)

    assert plan(scene(rows=fresh, waiting=(stream(1),))) == (Decode(),)
    assert plan(scene(rows=settled, waiting=(stream(1),)))[0] == Preempt(11)


def test_a_prompt_in_progress_gives_way_once() -> None:
    prompts = tuple(stream(key, 500, priority=1) for key in (11, 12, 13, 14))

    first = plan(scene(prompts=prompts, waiting=(stream(1),)))
    for each in prompts:
        each.preempted = True
    again = plan(scene(prompts=prompts, waiting=(stream(1),)))

    assert first[:2] == (Preempt(11), Start(1))
    assert first[2] == Compute((Chunk(1, 10), Chunk(12, 190)))
    assert chunks(again) == {11: 200}


def test_nobody_gives_way_who_computes_in_this_step() -> None:
    prompts = tuple(stream(key, 5, priority=1) for key in (11, 12, 13, 14))
    limits = replace(LIMITS, prefill_batch_size=8)
    waiting = tuple(stream(key, 5, priority=0) for key in range(1, 7))

    chosen = plan(scene(prompts=prompts, waiting=waiting, limits=limits))

    gone = {action.id for action in chosen if isinstance(action, Preempt)}
    assert gone == {11, 12, 13, 14}
    assert not gone & set(chunks(chosen))
    assert set(chunks(chosen)) == {1, 2, 3, 4}


# Memory


def test_with_memory_short_nobody_starts_but_in_the_place_of_a_less_urgent_one() -> None:
    equal = scene(rows=(row(9, priority=1),), waiting=(stream(1, priority=1),), admits=False)
    urgent = scene(rows=(row(9, priority=1),), waiting=(stream(1, priority=0),), admits=False)

    assert plan(equal) == (Decode(),)
    assert plan(urgent)[:2] == (Preempt(9), Start(1))


def test_above_the_hard_mark_nobody_starts_at_all() -> None:
    chosen = plan(scene(rows=(row(9, priority=1),), waiting=(stream(1),), admits=False, starts=False))

    assert chosen == (Decode(),)


def test_with_memory_short_and_nobody_running_nobody_starts() -> None:
    assert plan(scene(waiting=(stream(1),), admits=False)) == ()


BUDGET = Budget(limit_bytes=1024, weights_bytes=0, kv_bytes_per_token=1, margin_ratio=0.0)


def test_a_stream_starts_only_where_its_kv_fits_beside_the_others() -> None:
    def chosen(*groups: tuple[int, int]) -> tuple[object, ...]:
        waiting = (stream(1, 200),)
        return plan(scene(rows=(row(9),), waiting=waiting, budget=BUDGET, groups=groups))

    # 200 tokens and 100 of the answer take 512.
    assert Start(1) in chosen((2, 256))
    assert chosen((3, 256)) == (Decode(),)


def test_streams_that_start_together_must_fit_together() -> None:
    waiting = (stream(1, 200), stream(2, 200), stream(3, 200))

    chosen = plan(scene(waiting=waiting, budget=BUDGET, pace=measured_pace(token_s=1e-5)))

    assert set(chunks(chosen)) == {1, 2}


def test_a_stream_that_could_not_even_run_alone_is_refused() -> None:
    assert plan(scene(waiting=(stream(1, 1000),), budget=BUDGET)) == (Refuse(1),)


def test_a_stream_that_gave_way_is_counted_already() -> None:
    held = Prefix(tokens=[1] * 199, payload=None, size_bytes=199)
    waiting = (stream(1, 200, remaining=1, held=held),)

    assert Start(1) in plan(scene(waiting=waiting, budget=BUDGET, groups=((5, 256),)))


def test_the_least_urgent_and_in_their_class_the_youngest_are_shed_until_enough_is_free() -> None:
    streams = [row(1, priority=2), row(2, priority=2), row(3, priority=0), row(4, priority=1)]

    # Each holds 30 tokens.
    assert shed(streams, size_bytes=31, kv_bytes_per_token=1) == [2, 1]
    assert shed(streams, size_bytes=61, kv_bytes_per_token=1) == [2, 1, 4]
    assert shed(streams, size_bytes=10_000, kv_bytes_per_token=1) == [2, 1, 4, 3]
    assert shed(streams, size_bytes=0, kv_bytes_per_token=1) == []


# Trials


def test_a_stream_on_trial_runs_with_nobody_beside_it() -> None:
    others = (row(1), row(2))

    chosen = plan(scene(rows=others, prompts=(stream(3),), waiting=(stream(4, trial_tokens=8), stream(5))))

    assert chosen == (Preempt(1), Preempt(2), Preempt(3), Start(4), Compute((Chunk(4, 10),)))


def test_a_trial_goes_on_alone_until_it_is_passed() -> None:
    tried = row(4, trial_tokens=3)

    chosen = plan(
        scene(rows=(tried,), waiting=(stream(5, trial_tokens=8), stream(6)), jobs=(score_job(7, 5),))
    )

    assert chosen == (Decode(),)


def test_the_next_trial_begins_when_the_first_has_passed_and_gives_way() -> None:
    chosen = plan(scene(rows=(row(4),), waiting=(stream(5, trial_tokens=8), stream(6, trial_tokens=8))))

    assert chosen == (Preempt(4), Start(5), Compute((Chunk(5, 10),)))


def test_the_prompt_of_a_trial_is_computed_in_chunks_with_the_time_of_an_idle_host() -> None:
    chosen = plan(scene(prompts=(stream(4, 3000, trial_tokens=8),)))

    assert chosen == (Compute((Chunk(4, 200),)),)


def test_a_trial_waits_for_the_turn_like_all_prompts() -> None:
    limits = replace(LIMITS, prefill_turn=False)

    before = plan(scene(rows=(row(1),), waiting=(stream(4, trial_tokens=8),), limits=limits))
    nobody = plan(scene(waiting=(stream(4, trial_tokens=8),), limits=limits))
    amid = plan(scene(prompts=(stream(4, trial_tokens=8),), limits=limits))

    assert (before, nobody, amid) == ((Decode(),), (), ())


# Nobody waits for ever


def test_a_prompt_that_gave_way_before_gets_on_behind_any_number_of_more_urgent_ones() -> None:
    limits = replace(LIMITS, max_batch_size=1)
    tired = stream(1, 300, remaining=200, priority=1, preempted=True)
    urgent = tuple(stream(key, 10, priority=0) for key in range(2, 8))

    assert set(chunks(plan(scene(prompts=(tired,), waiting=urgent, limits=limits)))) == {1}


def test_a_prompt_whose_memory_others_wait_for_gets_on() -> None:
    budget = Budget(limit_bytes=600, weights_bytes=0, kv_bytes_per_token=1, chunk_tokens=1, margin_ratio=0.0)
    large = stream(1, 400, remaining=300, priority=1)
    urgent = tuple(stream(key, 200, priority=0) for key in range(2, 8))

    chosen = plan(scene(prompts=(large,), waiting=urgent, budget=budget, groups=((1, 400),)))

    assert set(chunks(chosen)) == {1}


def test_a_stream_whose_held_memory_others_wait_for_comes_back() -> None:
    budget = Budget(limit_bytes=600, weights_bytes=0, kv_bytes_per_token=1, chunk_tokens=1, margin_ratio=0.0)
    held = Prefix(tokens=[1] * 399, payload=None, size_bytes=400)
    gave_way = stream(1, 400, remaining=1, priority=1, held=held, preempted=True)
    urgent = tuple(stream(key, 200, priority=0) for key in range(2, 8))

    chosen = plan(scene(waiting=(gave_way, *urgent), budget=budget, groups=((1, 400),)))

    assert chosen == (Start(1), Compute((Chunk(1, 1),)))
