"""The index of kept prefixes: whole blocks, counted holders, never the whole prompt."""

from __future__ import annotations

from wicketgate.pipeline.prefix import BLOCK_TOKENS, PrefixIndex

PROMPT = list(range(3 * BLOCK_TOKENS + 5))


def test_a_prompt_that_nobody_computed_matches_nothing() -> None:
    assert PrefixIndex().match(PROMPT) == 0


def test_whole_blocks_of_a_kept_prompt_match() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    assert index.match([*PROMPT[: 2 * BLOCK_TOKENS], *([7] * BLOCK_TOKENS)]) == 2 * BLOCK_TOKENS


def test_a_difference_in_the_first_block_matches_nothing() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    assert index.match([99, *PROMPT[1:]]) == 0


def test_equal_blocks_after_a_difference_do_not_match() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    changed = [*PROMPT[:BLOCK_TOKENS], 99, *PROMPT[BLOCK_TOKENS + 1 :]]

    assert index.match(changed) == BLOCK_TOKENS


def test_at_least_one_token_is_left_to_compute() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    assert index.match(PROMPT[: 2 * BLOCK_TOKENS]) == BLOCK_TOKENS


def test_an_evicted_entry_no_longer_matches() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    index.drop(1)

    assert index.match(PROMPT) == 0
    assert len(index) == 0


def test_a_block_that_two_entries_hold_outlives_one_of_them() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)
    index.keep(2, PROMPT[: BLOCK_TOKENS + 1])

    index.drop(1)

    assert index.match(PROMPT) == BLOCK_TOKENS


def test_keeping_an_entry_again_replaces_it() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    index.keep(1, PROMPT[:BLOCK_TOKENS])

    assert index.match(PROMPT) == BLOCK_TOKENS


def test_a_new_engine_holds_nothing() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT)

    index.clear()

    assert index.match(PROMPT) == 0


def test_a_prefix_is_held_for_its_own_salt_only() -> None:
    index = PrefixIndex()
    index.keep(1, PROMPT, salt="alice")

    assert (index.match(PROMPT, salt="alice"), index.match(PROMPT, salt="bob")) == (3 * BLOCK_TOKENS, 0)
