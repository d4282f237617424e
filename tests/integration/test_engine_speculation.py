"""Pins speculation: passes with drafts leave text and KV as passes without, whatever was drafted."""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, KVCache
from mlx_lm.utils import load_model

from tests.mlx_streams import Driver, small_model_of
from tests.mlx_streams import alone as stream_alone
from wicketgate.engine.drafts import Setting
from wicketgate.engine.mlx import caches
from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.mlx.draft_model import (
    CATCH_UP_TOKENS,
    DraftCache,
    DraftModel,
    DraftModelError,
    open_draft_model,
)
from wicketgate.engine.mlx.drafting import Plan, Speculation
from wicketgate.engine.mlx.network import Network
from wicketgate.engine.mlx.ragged import RaggedKVCache
from wicketgate.engine.mlx.sampling import row_state, sample
from wicketgate.engine.mlx.verification import can_draft, take_back, verify
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import Submit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wicketgate.engine.kv.store import Prefix
    from wicketgate.engine.mlx.rows import Pass, Row
    from wicketgate.engine.mlx.sampling import RowState

VOCABULARY = 1536
PROMPTS = [
    [40 + (7 * index + 3 * row) % 900 for index in range(count)] for row, count in enumerate((5, 12, 3))
]


@pytest.fixture(scope="module", params=["demo", "random"])
def network(demo_model: Path, request: pytest.FixtureRequest) -> Network:
    return Network(load_model(demo_model)[0] if request.param == "demo" else random_model())


def random_model() -> Any:
    """Return a model that does not repeat itself soon."""
    mx.random.seed(5)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    model = llama.Model(args)
    model.update(tree_map(lambda array: array * 3 if array.ndim > 1 else array, model.parameters()))
    return model


def computed(network: Network, prompt: Sequence[int]) -> list[Any]:
    """Return the KV of all but the last token."""
    cache = network.new_cache()
    network.extend(mx.array([prompt[:-1]]), cache)
    mx.eval([part.state for part in cache])
    return cache


def together(network: Network, prompts: Sequence[Sequence[int]]) -> list[Any]:
    merged = caches.side_by_side([computed(network, prompt) for prompt in prompts])
    return [RaggedKVCache(part) for part in merged]


def state_of(prompt: Sequence[int], *, ends: Sequence[int] = (), **settings: Any) -> RowState:
    fields: dict[str, Any] = {"temperature": 0.0, "seed": 3} | settings
    return row_state(Submit(id=1, prompt=list(prompt), max_tokens=100, **fields), ends=frozenset(ends))


def alone(network: Network, prompt: Sequence[int], count: int, **settings: Any) -> list[int]:
    """Decode one stream token by token."""
    cache, state = computed(network, prompt), state_of(prompt, **settings)
    text = [prompt[-1]]
    for _ in range(count):
        drawn = sample(network.last_logits(mx.array([[text[-1]]]), cache), [state])
        text.append(drawn.tokens.item())
    return text[1:]


def speculated(
    network: Network,
    prompts: Sequence[Sequence[int]],
    cache: list[Any],
    texts: Sequence[Sequence[int]],
    **settings: Any,
) -> list[list[int]]:
    """Decode streams together with drafts of some right tokens and then some wrong ones."""
    chance = random.Random(11)
    said: list[list[int]] = [[] for _ in prompts]
    states = [state_of(prompt, **settings) for prompt in prompts]
    while min(len(part) for part in said) < 24:
        drafts = []
        for part, text in zip(said, texts, strict=True):
            right = text[len(part) : len(part) + chance.randrange(4)]
            drafts.append(right + [chance.randrange(10, 900) for _ in range(chance.randrange(3))])
        feed = mx.array([(prompt + part)[-1] for prompt, part in zip(prompts, said, strict=True)])
        verification = verify(network, feed, cache, drafts=drafts, states=states)
        told = verification.said()
        for row, news in enumerate(told):
            said[row] += [token for token, _ in news]
            states[row].position += len(news) if drafts[row] else 0
        take_back(cache, [verification.width - len(news) for news in told])
    return said


SAMPLED = {"temperature": 1.0, "top_p": 0.9, "top_k": 50}


@pytest.mark.parametrize(
    "settings", [{}, SAMPLED, {"temperature": 0.7, "min_p": 0.05, "logit_bias": {9: 2.0}}]
)
def test_rows_say_what_each_says_alone_whatever_was_drafted(
    network: Network, settings: dict[str, Any]
) -> None:
    texts = [alone(network, prompt, 40, **settings) for prompt in PROMPTS]

    said = speculated(network, PROMPTS, together(network, PROMPTS), texts, **settings)

    for part, text in zip(said, texts, strict=True):
        assert part[:24] == text[:24]


def test_a_row_alone_takes_back_from_a_plain_cache(network: Network) -> None:
    text = alone(network, PROMPTS[1], 40)

    said = speculated(network, PROMPTS[1:2], computed(network, PROMPTS[1]), [text])

    assert said[0][:24] == text[:24]


def test_no_end_is_drawn_at_a_drafted_place_before_min_tokens(network: Network) -> None:
    free = alone(network, PROMPTS[0], 12, **SAMPLED)
    settings = {**SAMPLED, "ends": free, "min_tokens": 6}
    held = alone(network, PROMPTS[0], 12, **settings)

    said = speculated(
        network, PROMPTS[:1], computed(network, PROMPTS[0]), [free[:3] + held[3:] + [1] * 30], **settings
    )

    assert not set(held[:6]) & set(free)
    assert said[0][:12] == held


def test_rows_with_penalties_are_not_drafted() -> None:
    assert can_draft(state_of(PROMPTS[0], **SAMPLED))
    assert not can_draft(state_of(PROMPTS[0], repetition_penalty=1.2))
    assert not can_draft(state_of(PROMPTS[0], frequency_penalty=0.5))


def test_a_row_without_drafts_takes_part_with_its_penalties(network: Network) -> None:
    penal = {"repetition_penalty": 1.3}
    texts = [alone(network, PROMPTS[0], 12), alone(network, PROMPTS[1], 12, **penal)]
    cache = together(network, PROMPTS[:2])
    states = [state_of(PROMPTS[0]), state_of(PROMPTS[1], **penal)]
    said: list[list[int]] = [[], []]
    while len(said[1]) < 12:
        drafts = [texts[0][len(said[0]) : len(said[0]) + 2], []]
        feed = mx.array([(prompt + part)[-1] for prompt, part in zip(PROMPTS, said, strict=False)])
        verification = verify(network, feed, cache, drafts=drafts, states=states)
        told = verification.said()
        for row, news in enumerate(told):
            said[row] += [token for token, _ in news]
        states[0].position += len(told[0]) if drafts[0] else 0
        take_back(cache, [verification.width - len(news) for news in told])

    assert said[1] == texts[1]
    assert said[0][:12] == texts[0]


# The ragged cache


def logits_after(network: Network, cache: list[Any], tokens: Sequence[int]) -> NDArray[np.float32]:
    return np.array(network.last_logits(mx.array(tokens)[:, None], cache))


def test_what_is_taken_back_is_as_if_it_had_never_been_computed(network: Network) -> None:
    cache = together(network, PROMPTS)
    network.extend(mx.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]]), cache)
    take_back(cache, [3, 1, 2])
    longer = [PROMPTS[0], [*PROMPTS[1][:-1], 6, 5, 77], [*PROMPTS[2][:-1], 3, 77]]
    alike = together(network, longer)
    last = [PROMPTS[0][-1], 77, 77]

    found = logits_after(network, cache, last)

    assert np.abs(found - logits_after(network, alike, last)).max() < 1e-4


@pytest.mark.parametrize("taken_back", [[3, 1, 2], [0, 0, 0], [2, 2, 2]])
def test_a_settled_cache_holds_the_same_rows(network: Network, taken_back: list[int]) -> None:
    """The contract with mlx-lm: BatchKVCache.prepare(right_padding) and finalize roll rows to one end."""
    cache = together(network, PROMPTS)
    network.extend(mx.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]]), cache)
    take_back(cache, taken_back)
    rows = [[part.extract(row) for part in cache] for row in range(3)]

    settled = [part.settled() for part in cache]

    assert all(type(part) is BatchKVCache for part in settled)
    alone_logits = np.concatenate([logits_after(network, row, [50]) for row in rows])
    assert np.abs(logits_after(network, settled, [50] * 3) - alone_logits).max() < 1e-4


def test_rows_leave_a_ragged_cache_as_their_own(network: Network) -> None:
    cache = together(network, PROMPTS)
    network.extend(mx.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]]), cache)
    take_back(cache, [3, 0, 1])

    rows = [[part.extract(row) for part in cache] for row in range(3)]
    for part in cache:
        part.filter([2, 0])

    assert all(type(part) is KVCache for row in rows for part in row)
    assert [row[0].offset for row in rows] == [4, 14, 4]
    stayed = logits_after(network, cache, [60, 60])
    for found, row in zip(stayed, (rows[2], rows[0]), strict=True):
        assert np.abs(found - logits_after(network, row, [60])[0]).max() < 1e-4


def test_a_ragged_cache_grows_beyond_its_first_columns(network: Network) -> None:
    prompts = [[10 + number % 700 for number in range(250)], [20 + number % 700 for number in range(100)]]
    cache = together(network, prompts)
    before = cache[0].nbytes
    for _ in range(3):
        network.extend(mx.array([[5] * 7] * 2), cache)
        take_back(cache, [0, 5])

    alike = together(network, [prompts[0][:-1] + [5] * 22, prompts[1][:-1] + [5] * 7])

    assert cache[0].nbytes > before
    assert np.abs(logits_after(network, cache, [5, 5]) - logits_after(network, alike, [5, 5])).max() < 1e-4


def test_the_random_model_says_different_things() -> None:
    assert len(set(alone(Network(random_model()), PROMPTS[0], 40))) > 25


# The draft model


def drafts_of(
    network: Network, drafter: DraftModel, prompt: list[int], text: Sequence[int], **settings: Any
) -> list[list[int]]:
    """Return what is drafted before each token of a text, as it goes on by two tokens a time."""
    known, state = DraftCache(), state_of(prompt, **settings)
    found = []
    for told in range(0, len(text) - 4, 2):
        state.position = told
        found.append(drafter.draft(known, prompt + list(text[:told]), state, most_tokens=4))
    return found


@pytest.mark.parametrize("settings", [{}, SAMPLED])
def test_a_draft_model_that_is_the_model_drafts_what_it_says(
    network: Network, settings: dict[str, Any]
) -> None:
    text = alone(network, PROMPTS[0], 24, **settings)

    found = drafts_of(
        network, DraftModel(network, most_token_id=VOCABULARY - 1), PROMPTS[0], text, **settings
    )

    assert found == [text[told : told + 4] for told in range(0, 20, 2)]


def test_wrong_guesses_are_taken_back_from_the_draft_models_cache(network: Network) -> None:
    text = [random.Random(2).randrange(10, 900) for _ in range(24)]

    found = drafts_of(network, DraftModel(network, most_token_id=VOCABULARY - 1), PROMPTS[0], text)

    assert found == [alone(network, PROMPTS[0] + text[:told], 4) for told in range(0, 20, 2)]


def test_a_long_prompt_is_computed_in_parts_before_the_first_draft(network: Network) -> None:
    prompt = [10 + number % 800 for number in range(CATCH_UP_TOKENS + 100)]
    drafter, known = DraftModel(network, most_token_id=VOCABULARY - 1), DraftCache()

    first = drafter.draft(known, prompt, state_of(prompt), most_tokens=3)
    second = drafter.draft(known, prompt, state_of(prompt), most_tokens=3)

    assert first == []
    assert second == alone(network, prompt, 3)


def test_tokens_that_one_of_the_models_lacks_are_not_drafted(network: Network) -> None:
    text = alone(network, PROMPTS[0], 4)
    small = DraftModel(network, most_token_id=max(PROMPTS[0]))

    beyond = next(at for at, token in enumerate([*text, VOCABULARY]) if token > max(PROMPTS[0]))
    assert small.draft(DraftCache(), PROMPTS[0], state_of(PROMPTS[0]), most_tokens=4) == text[:beyond]
    assert small.draft(DraftCache(), [5, max(PROMPTS[0]) + 1], state_of([5]), most_tokens=4) == []


def copied_model(demo_model: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    shutil.copytree(demo_model, folder)
    document = json.loads((folder / "tokenizer.json").read_bytes())
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return str(folder)


def test_a_model_of_the_same_vocabulary_may_draft(demo_model: Path, tmp_path: Path) -> None:
    same = copied_model(demo_model, tmp_path / "same", lambda document: None)
    network = Network(load_model(demo_model)[0])

    drafter = open_draft_model(same, model_folder=str(demo_model), vocabulary_size=1536)

    found = drafter.draft(DraftCache(), PROMPTS[0], state_of(PROMPTS[0]), most_tokens=4)
    assert found == alone(network, PROMPTS[0], 4)


def renamed(document: dict[str, Any]) -> None:
    tokens = document["model"]["vocab"]
    tokens["another"] = tokens.pop(next(token for token, number in tokens.items() if number == 700))


def unreadable(document: dict[str, Any]) -> None:
    del document["model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(renamed, "must have the model's vocabulary, but 2 entries differ"), (unreadable, "cannot read")],
)
def test_a_draft_model_of_another_vocabulary_is_refused(
    demo_model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    other = copied_model(demo_model, tmp_path / "other", change)

    with pytest.raises(DraftModelError, match=message):
        open_draft_model(other, model_folder=str(demo_model), vocabulary_size=1536)


# In a running batch


class EvenClock:
    """A clock by which every step takes as long as any other, so that whatever brings more tokens pays."""

    def __init__(self) -> None:
        self._calls = 0
        self._now_s = 0.0

    def __call__(self) -> float:
        self._calls += 1
        self._now_s += 0.001 if self._calls % 2 else 1.0
        return self._now_s


class Oracle:
    """Drafts what streams will say, and by chance something else behind that; stands in for `Speculation`."""

    def __init__(self, texts: dict[int, list[int]], *, seed: int = 0) -> None:
        self._texts = texts
        self._chance = random.Random(seed)

    def wants_tokens(self, rows: Sequence[Row]) -> bool:
        return self._chance.random() < 0.8

    def plan(self, rows: Sequence[Row]) -> Plan | None:
        drafts = [self._draft(row) for row in rows]
        return Plan(Setting("repeats", 4), drafts) if any(drafts) else None

    def _draft(self, row: Row) -> list[int]:
        if not can_draft(row.state):
            return []
        right = self._texts[row.message.id][row.told : row.told + self._chance.randrange(5)]
        wrong = [self._chance.randrange(10, 900) for _ in range(self._chance.randrange(3))]
        return (right + wrong)[: row.message.max_tokens - row.told - 1]

    def begin_step(self) -> None:
        pass

    def end_step(self, passes: Sequence[Pass]) -> None:
        pass


def batch_of(
    model: Any, *, drafter: DraftModel | None = None, oracle: Any = None, **options: Any
) -> MlxBatch:
    speculation = oracle or Speculation(most_tokens=4, clock=EvenClock(), model=drafter)
    return MlxBatch(
        model,
        HostOptions(**options),
        vocabulary_size=VOCABULARY,
        context_tokens=8192,
        eos_token_ids=[],
        speculation=speculation,
    )


def loops(row: int, count: int) -> list[int]:
    return [30 + row * 50 + number % (5 + row) for number in range(count)]


STREAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8},
    {"temperature": 1.0, "top_p": 0.9, "logprobs": 2},
    {"logprobs": 1},
    {"repetition_penalty": 1.1},
    {"temperature": 0.5, "presence_penalty": 0.4},
]


def message_of(stream: int, *, max_tokens: int = 40, **settings: Any) -> Submit:
    fields = {"temperature": 0.0} | STREAMS[stream % len(STREAMS)] | settings
    prompt = loops(stream, 20 + 3 * stream)
    return Submit(id=stream, prompt=prompt, max_tokens=max_tokens, seed=stream, **fields)


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_streams_that_come_and_go_say_what_each_says_without_drafts(
    model: Any, seed: int, *, knows: bool
) -> None:
    chance = random.Random(seed)
    messages = [message_of(stream, max_tokens=chance.randint(1, 60)) for stream in range(9)]
    arrivals: dict[int, list[Submit]] = {}
    for message in messages:
        arrivals.setdefault(chance.randrange(60), []).append(message)
    texts = {message.id: plain_alone(model, message) for message in messages}
    driver = Driver(batch_of(model, oracle=Oracle(texts, seed=seed) if knows else None), seed=seed)

    answers = driver.run(arrivals)

    assert answers == texts
    logprobs = [token.logprob is not None for token in driver.tokens[2]]
    assert logprobs == [True] * messages[2].max_tokens


def test_drafts_bring_several_tokens_a_step(model: Any) -> None:
    driver = Driver(batch_of(model))
    driver.open(message_of(0, max_tokens=120))
    steps = 0
    while not driver.reasons:
        driver.step()
        steps += 1

    assert steps < 60


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_draft_model_changes_no_token(model: Any, stream: int) -> None:
    drafter = DraftModel(Network(model), most_token_id=VOCABULARY - 1)
    driver = Driver(batch_of(model, drafter=drafter))
    driver.open(message_of(stream))
    driver.open(message_of(stream + 6))

    assert driver.run() == {key: plain_alone(model, message_of(key)) for key in (stream, stream + 6)}


@pytest.mark.parametrize("streams", [[3], [3, 1, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_that_ends_within_its_drafts_leaves_the_kv_of_what_it_said(
    model: Any, streams: list[int], seed: int
) -> None:
    texts = {stream: plain_alone(model, message_of(stream, max_tokens=60)) for stream in streams}
    end = next(token for at, token in enumerate(texts[3]) if at > 22 and token not in texts[3][:at])
    driver = Driver(batch_of(model, oracle=Oracle(texts, seed=seed)))
    for stream in streams:
        ends = [end] if stream == 3 else []
        driver.open(message_of(stream, max_tokens=60, stop_token_ids=ends))

    answers = driver.run()

    assert answers == {**texts, 3: texts[3][: texts[3].index(end) + 1]}
    assert driver.reasons[3] == "stop"
    for stream in streams:
        assert_holds(model, driver.prefixes[stream])


@pytest.mark.parametrize("streams", [[0], [0, 3, 1]])
@pytest.mark.parametrize("steps", [7, 8, 9, 10])
def test_a_stream_that_is_removed_with_drafts_in_flight_leaves_kv_that_is_right(
    model: Any, streams: list[int], steps: int
) -> None:
    texts = {stream: plain_alone(model, message_of(stream, max_tokens=80)) for stream in streams}
    batch = batch_of(model, oracle=Oracle(texts))
    driver = Driver(batch)
    for stream in streams:
        driver.open(message_of(stream, max_tokens=80))
    for _ in range(steps):
        driver.step()

    prefix = batch.remove([0], keep=True)[0]

    assert_holds(model, prefix)
    driver.reasons[0] = "cancelled"
    answers = driver.run()
    assert all(answers[stream] == texts[stream] for stream in streams[1:])


def plain_alone(model: Any, message: Submit) -> list[int]:
    return stream_alone(model, message, vocabulary_size=VOCABULARY)


def assert_holds(model: Any, prefix: Prefix | None) -> None:
    """Compare kept KV with the same tokens computed anew."""
    assert prefix is not None
    network = Network(model)
    fresh = network.new_cache()
    network.extend(mx.array([list(prefix.tokens)]), fresh)
    payload: Any = prefix.payload
    for part, wanted in zip(payload, fresh, strict=True):
        for held, computed_now in zip(part.state[:2], wanted.state[:2], strict=True):
            assert held.shape[2] == len(prefix.tokens)
            assert np.abs(np.array(held) - np.array(computed_now[..., : len(prefix.tokens), :])).max() < 1e-4


def test_a_model_that_cannot_take_back_is_not_speculated_upon() -> None:
    sliding = small_model_of("sliding")
    message = msgspec.structs.replace(message_of(0), prompt=loops(0, 30))
    driver = Driver(batch_of(sliding))
    driver.open(message)

    answers = driver.run()

    assert answers[0] == stream_alone(sliding, message, vocabulary_size=300)
