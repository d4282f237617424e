"""Pins how a model is opened: whose code may run, what is computed before, and what it says of itself."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.mlx_streams import Driver, greedy_alone
from wicketgate.engine.grouping import StepCost
from wicketgate.engine.mlx.model import ForeignCodeError, open_mlx
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import Grammar, Submit

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_with_code_of_its_own_is_not_run_unless_the_operator_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "model_file": "own.py"}')
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")

    with pytest.raises(ForeignCodeError, match=re.escape("engine.trust_model_code")) as caught:
        open_mlx(HostOptions(model=str(tmp_path)), clock=time.monotonic)

    assert "own.py" in str(caught.value)


def test_a_warmed_up_model_has_measured_itself(demo_model: Path) -> None:
    batch, ready, _ = open_mlx(HostOptions(model=str(demo_model)), clock=time.monotonic)

    assert ready.full_chunk_s > 0
    assert batch.cost != StepCost()
    assert batch.groups() == []
    assert (ready.engine, ready.model_type) == ("mlx", "qwen3")
    assert ready.kv_bytes_per_token == batch.kv_bytes_per_token == 3072
    assert ready.vocabulary_size == 1536


def test_without_prewarming_nothing_is_computed_and_the_costs_are_usual_ones(demo_model: Path) -> None:
    batch, ready, _ = open_mlx(HostOptions(model=str(demo_model), prewarm=False), clock=time.monotonic)

    assert ready.full_chunk_s == 0.0
    assert batch.cost == StepCost()


@pytest.mark.parametrize("context_tokens", [1, 2, 3, 5, 600])
def test_any_context_can_be_warmed_up(demo_model: Path, context_tokens: int) -> None:
    options = HostOptions(model=str(demo_model), context_tokens=context_tokens)

    batch, ready, _ = open_mlx(options, clock=time.monotonic)

    assert batch.context_tokens == ready.context_tokens == context_tokens


def test_safe_mode_halves_what_new_requests_get_and_leaves_streams_their_context(demo_model: Path) -> None:
    options = HostOptions(model=str(demo_model), context_tokens=600, safe_mode=True, prewarm=False)

    batch, ready, _ = open_mlx(options, clock=time.monotonic)

    assert (batch.context_tokens, ready.context_tokens) == (600, 300)


def test_a_grammar_binds_its_own_row_and_leaves_its_neighbours_alone(demo_model: Path) -> None:
    from mlx_lm.utils import load_model
    from tokenizers import Tokenizer

    batch, ready, _ = open_mlx(HostOptions(model=str(demo_model), prewarm=False), clock=time.monotonic)
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    prompts = {key: [(key * 13 + at) % 1000 for at in range(20)] for key in (1, 2, 3)}
    driver = Driver(batch)
    driver.open(
        Submit(id=1, prompt=prompts[1], max_tokens=40, seed=1, grammar=Grammar("regex", "[0-9]{3}-[0-9]{4}"))
    )
    for key in (2, 3):
        driver.open(
            Submit(id=key, prompt=prompts[key], max_tokens=20, seed=0, temperature=0.0, ignore_eos=True)
        )

    answers = driver.run()

    said = tokenizer.decode([token for token in answers[1] if token not in ready.eos_token_ids])
    assert re.fullmatch(r"[0-9]{3}-[0-9]{4}", said.strip())
    assert driver.reasons[1] == "stop"
    model = load_model(demo_model)[0]
    assert {key: answers[key] for key in (2, 3)} == {
        key: greedy_alone(model, prompts[key], 20) for key in (2, 3)
    }
