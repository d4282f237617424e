"""
The facts about mlx and mlx-lm that the decode loop rests on, one test each.

The cache classes are what every model file of mlx-lm is written against, but nobody promises them: when one
of these fails after an upgrade, read `wicketgate/engine/mlx/caches.py` and `rows.py` before the test.
"""

from __future__ import annotations

import ast
import copy
import threading
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)
from mlx_lm.utils import load_config, load_model

from tests.mlx_streams import greedy_alone, small_model_of
from wicketgate.engine.mlx.caches import copied

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [[10 + index for index in range(count)] for count in (5, 9, 3)]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


def computed(model: Any, prompt: list[int]) -> list[Any]:
    """Return the cache of one row with a prompt in it."""
    cache = make_prompt_cache(model)
    model(mx.array([prompt]), cache=cache)
    mx.eval([part.state for part in cache])
    return cache


def merged(model: Any, prompts: list[list[int]]) -> list[Any]:
    rows = [computed(model, prompt) for prompt in prompts]
    return [parts[0].merge(list(parts)) for parts in zip(*rows, strict=True)]


def next_logits(model: Any, cache: list[Any], tokens: list[int]) -> mx.array:
    return model(mx.array(tokens)[:, None], cache=cache)[:, -1]


def alone(model: Any, prompt: list[int], token: int) -> mx.array:
    return next_logits(model, computed(model, prompt), [token])[0]


def close(left: mx.array, right: mx.array) -> bool:
    return bool(mx.allclose(left, right, atol=1e-4, rtol=1e-4).item())


# One row


def test_a_model_of_plain_attention_has_a_plain_cache_per_layer(model: Any) -> None:
    cache = make_prompt_cache(model)

    assert len(cache) == len(model.layers)
    assert {type(part) for part in cache} == {KVCache}


def test_the_state_of_a_plain_cache_is_keys_values_and_length(model: Any) -> None:
    (part, *_) = computed(model, PROMPTS[0])
    keys, values, length = part.state

    again = KVCache()
    again.state = (keys, values, length)

    assert length == part.offset == 5
    assert keys.shape[2] == values.shape[2] == 256
    assert again.offset == 5


def test_body_and_head_are_the_whole_model(model: Any) -> None:
    prompt = mx.array([PROMPTS[1]])
    hidden = model.model(prompt, cache=make_prompt_cache(model))
    head = model.model.embed_tokens.as_linear

    whole = model(prompt, cache=make_prompt_cache(model))

    assert mx.array_equal(head(hidden), whole)
    assert close(head(hidden[:, -1:]), whole[:, -1:])


def test_a_prompt_may_be_computed_in_chunks(model: Any) -> None:
    cache = make_prompt_cache(model)
    for chunk in (PROMPTS[1][:4], PROMPTS[1][4:8]):
        model.model(mx.array([chunk]), cache=cache)

    assert close(next_logits(model, cache, [18])[0], alone(model, PROMPTS[1][:8], 18))


def test_a_trimmed_cache_goes_on_from_there(model: Any) -> None:
    cache = computed(model, PROMPTS[1])

    assert can_trim_prompt_cache(cache)
    trim_prompt_cache(cache, 4)

    assert close(next_logits(model, cache, [77])[0], alone(model, PROMPTS[1][:5], 77))


def test_a_copy_with_handles_of_its_own_does_not_see_what_is_written_to_the_other(model: Any) -> None:
    cache = computed(model, PROMPTS[0])
    copies = [copy.copy(part) for part in cache]
    for part in copies:
        keys, values, length = part.state
        part.state = (keys[...], values[...], length)
    before = [mx.array(part.keys) for part in cache]

    next_logits(model, copies, [500])

    assert all(mx.array_equal(kept, part.keys) for kept, part in zip(before, cache, strict=True))
    assert {part.offset for part in cache} == {5}
    assert {part.offset for part in copies} == {6}


# Rows side by side


def test_merge_puts_rows_side_by_side_and_leaves_them_as_they_were(model: Any) -> None:
    rows = [computed(model, prompt) for prompt in PROMPTS]
    wide = [parts[0].merge(list(parts)) for parts in zip(*rows, strict=True)]

    logits = next_logits(model, wide, [7, 8, 9])

    assert {type(part) for part in wide} == {BatchKVCache}
    assert all(
        close(logits[row], alone(model, prompt, token))
        for row, (prompt, token) in enumerate(zip(PROMPTS, [7, 8, 9], strict=True))
    )
    assert [cache[0].offset for cache in rows] == [5, 9, 3]


def test_a_batch_of_one_may_take_over_a_row_s_arrays(model: Any) -> None:
    wide = []
    for part in computed(model, PROMPTS[0]):
        batch = BatchKVCache([0])
        batch.state = (part.keys, part.values, mx.array([part.offset]), mx.array([0]), part.offset)
        wide.append(batch)

    assert close(next_logits(model, wide, [7])[0], alone(model, PROMPTS[0], 7))


def test_merging_empty_rows_gives_a_batch_that_can_be_filled(model: Any) -> None:
    rows = [make_prompt_cache(model) for _ in range(2)]
    wide = [parts[0].merge(list(parts)) for parts in zip(*rows, strict=True)]

    logits = model(mx.array([PROMPTS[0], PROMPTS[0][::-1]]), cache=wide)[:, -1]

    assert close(logits[1], model(mx.array([PROMPTS[0][::-1]]), cache=make_prompt_cache(model))[0, -1])


def test_extend_adds_rows_at_the_end(model: Any) -> None:
    wide, more = merged(model, PROMPTS[:1]), merged(model, PROMPTS[1:])
    for part, other in zip(wide, more, strict=True):
        part.extend(other)

    logits = next_logits(model, wide, [7, 8, 9])

    assert all(
        close(logits[row], alone(model, prompt, token))
        for row, (prompt, token) in enumerate(zip(PROMPTS, [7, 8, 9], strict=True))
    )


def test_filter_keeps_rows_in_the_order_asked_for_and_takes_padding_away(model: Any) -> None:
    wide = merged(model, PROMPTS)
    for part in wide:
        part.filter([0, 2])

    logits = next_logits(model, wide, [7, 9])

    assert close(logits[0], alone(model, PROMPTS[0], 7))
    assert close(logits[1], alone(model, PROMPTS[2], 9))
    assert wide[0].size() == len(PROMPTS[0]) + 1


def test_extract_copies_one_row_without_padding(model: Any) -> None:
    wide = merged(model, PROMPTS)
    row = [part.extract(2) for part in wide]
    next_logits(model, wide, [7, 8, 9])

    assert {type(part) for part in row} == {KVCache}
    assert row[0].offset == row[0].keys.shape[2] == 3
    assert close(next_logits(model, row, [9])[0], alone(model, PROMPTS[2], 9))


def test_rows_padded_on_the_right_are_as_if_computed_alone_once_finalized(model: Any) -> None:
    lengths = [len(prompt) for prompt in PROMPTS]
    padding = [max(lengths) - length for length in lengths]
    rows = [make_prompt_cache(model) for _ in PROMPTS]
    wide = [parts[0].merge(list(parts)) for parts in zip(*rows, strict=True)]
    for part in wide:
        part.prepare(lengths=lengths, right_padding=padding)
    tokens = mx.array([prompt + [0] * pad for prompt, pad in zip(PROMPTS, padding, strict=True)])
    hidden = model.model(tokens, cache=wide)
    for part in wide:
        part.finalize()

    last = model.model.embed_tokens.as_linear(hidden[mx.arange(3), mx.array(lengths) - 1][None])[0]
    after = next_logits(model, wide, [7, 8, 9])

    for row, prompt in enumerate(PROMPTS):
        assert close(last[row], model(mx.array([prompt]), cache=make_prompt_cache(model))[0, -1])
        assert close(after[row], alone(model, prompt, 7 + row))


def test_padding_of_nothing_changes_nothing(model: Any) -> None:
    wide = merged(model, [PROMPTS[0], PROMPTS[0][::-1]])
    for part in wide:
        part.prepare(lengths=[1, 1], right_padding=[0, 0])
        part.finalize()

    assert close(next_logits(model, wide, [7, 8])[1], alone(model, PROMPTS[0][::-1], 8))


def test_tokens_of_several_passes_can_be_taken_back_row_by_row(model: Any) -> None:
    wide = merged(model, PROMPTS[:2])
    model(mx.array([[50, 51, 52], [60, 61, 62]]), cache=wide)
    for part in wide:
        part.prepare(right_padding=[2, 1])
        part.finalize()

    logits = next_logits(model, wide, [7, 8])

    assert close(logits[0], alone(model, [*PROMPTS[0], 50], 7))
    assert close(logits[1], alone(model, [*PROMPTS[1], 60, 61], 8))


def test_a_pass_launched_before_the_last_one_is_read_does_not_copy_the_kv(model: Any) -> None:
    rows, tokens = 8, 1000
    (like, *_) = computed(model, [1])
    shapes = (rows, like.keys.shape[1], tokens + 24, like.keys.shape[3])
    wide = [BatchKVCache([0] * rows) for _ in model.layers]
    for part in wide:
        part.state = (
            mx.zeros(shapes),
            mx.zeros(shapes),
            mx.array([tokens] * rows),
            mx.array([0] * rows),
            tokens,
        )
    mx.eval([part.state for part in wide])
    feed = mx.zeros((rows,), dtype=mx.int32)
    mx.clear_cache()
    mx.reset_peak_memory()
    began = mx.get_active_memory()
    for _ in range(6):
        drawn = mx.argmax(model(feed[:, None], cache=wide)[:, -1], axis=-1)
        mx.async_eval(drawn)
        feed.tolist()
        feed = drawn
    feed.tolist()

    assert mx.get_peak_memory() - began < sum(part.nbytes for part in wide) / 2


# Windows and states


@pytest.mark.parametrize(
    ("kind", "caches"),
    [
        ("sliding", {KVCache, RotatingKVCache}),
        ("recurrent", {KVCache, ArraysCache}),
        ("mixed", {CacheList}),
    ],
)
def test_rows_of_windows_and_states_merge_extend_filter_and_come_out_again(
    kind: str, caches: set[type]
) -> None:
    model = small_model_of(kind)
    prompts = [[(7 * at + length) % 290 for at in range(length)] for length in (5, 40, 12, 33)]
    wide = merged(model, prompts[:2])
    for part, other in zip(wide, merged(model, prompts[2:]), strict=True):
        part.extend(other)
    for part in wide:
        part.filter([0, 1, 3])

    logits = next_logits(model, wide, [7, 8, 9])
    row = [part.extract(1) for part in wide]
    after = next_logits(model, row, [11])

    assert {type(part) for part in make_prompt_cache(model)} == caches
    for index, (prompt, token) in enumerate([(prompts[0], 7), (prompts[1], 8), (prompts[3], 9)]):
        assert close(logits[index], alone(model, prompt, token))
    assert close(after[0], alone(model, [*prompts[1], 8], 11))


def test_a_full_window_and_a_state_cannot_be_trimmed() -> None:
    sliding, recurrent = small_model_of("sliding"), small_model_of("recurrent")
    prompt = [at % 290 for at in range(40)]

    assert not can_trim_prompt_cache(computed(sliding, prompt))
    assert not can_trim_prompt_cache(computed(recurrent, prompt))


@pytest.mark.parametrize("kind", ["sliding", "recurrent", "mixed"])
def test_copies_of_every_kind_go_on_apart(kind: str) -> None:
    model = small_model_of(kind)
    prompt = [at % 290 for at in range(30)]
    cache = computed(model, prompt)
    copies = copied(cache)
    next_logits(model, copies, [5])

    assert close(next_logits(model, cache, [6])[0], alone(model, prompt, 6))
    assert close(next_logits(model, copies, [7])[0], alone(model, [*prompt, 5], 7))


# Threads, memory, loading


def test_a_thread_local_stream_serves_whoever_enters_it(model: Any) -> None:
    stream = mx.new_thread_local_stream(mx.default_device())
    found: list[Any] = []

    def work() -> None:
        with mx.stream(stream):
            found.append(greedy_alone(model, PROMPTS[0], 4))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(timeout=60)
    work()

    assert found[0] == found[1] == greedy_alone(model, PROMPTS[0], 4)


def test_memory_is_told_and_the_pool_can_be_drained() -> None:
    made = mx.zeros((1024, 1024))
    mx.eval(made)
    active = mx.get_active_memory()
    del made
    mx.clear_cache()

    assert active - mx.get_active_memory() >= 4 * 1024 * 1024
    assert mx.get_cache_memory() == 0


def test_a_model_with_code_of_its_own_says_so_in_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "model_file": "own.py"}')

    assert load_config(tmp_path)["model_file"] == "own.py"


def test_loaded_weights_are_evaluated_and_the_end_tokens_are_known(demo_model: Path) -> None:
    loaded, config = load_model(demo_model)

    assert sum(array.nbytes for _, array in tree_flatten(loaded.parameters())) > 1_000_000
    assert config["eos_token_id"] is not None


# The reference


def test_the_generator_answers_as_the_model_alone(model: Any) -> None:
    generator = BatchGenerator(model, completion_batch_size=8, prefill_batch_size=4, prefill_step_size=64)
    uids = generator.insert(PROMPTS, max_tokens=[6] * 3)
    found: dict[int, list[int]] = {uid: [] for uid in uids}
    while sum(map(len, found.values())) < 18:
        for response in generator.next()[1]:
            found[response.uid].append(response.token)
    generator.close()

    assert [found[uid] for uid in uids] == [greedy_alone(model, prompt, 6) for prompt in PROMPTS]


# Ourselves


def test_nothing_private_of_mlx_is_used(root: Path) -> None:
    found = []
    for path in sorted((root / "wicketgate" / "engine" / "mlx").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlx"):
                found += [f"{path.name}: {name.name}" for name in node.names if name.name.startswith("_")]
                found += [f"{path.name}: {node.module}"] * node.module.startswith(
                    ("mlx_lm.server", "mlx_lm.generate")
                )
            # Of our own objects a module reaches for private names of its own class only.
            if isinstance(node, ast.Attribute) and node.attr in {
                "_idx",
                "_offset",
                "_right_padding",
                "_lengths",
            }:
                found.append(f"{path.name}: {node.attr}")

    assert found == []
