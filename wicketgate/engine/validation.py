"""
Which requests an engine host refuses, and with which words. Pure.

Whatever could fail or corrupt a step is found here, before anything is computed: mlx reads memory that is
not its own at a token id past the vocabulary, and an exception in mid-batch leaves the other rows wrong. The
words go to the client: they name field, value and bound, and never a token of the prompt.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from wicketgate.engine.wire import Assess, Embed, Grammar, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wicketgate.engine.wire import JobMessage, Submit, Warm

MAX_LOGPROBS: Final = 20
MAX_LOGIT_BIASES: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 1024
MAX_GRAMMAR_BYTES: Final = 64 * 1024
MAX_NAME_CHARACTERS: Final = 512
"""Of a salt and of a session."""
MAX_PRIORITY: Final = 9
MAX_SCORE_ITEMS: Final = 2048
MAX_SCORE_LABELS: Final = 256
MAX_EMBED_PROMPTS: Final = 256
"""Of one Embed: 256 vectors of 8,192 numbers are 8 MiB."""
MAX_SCORE_TOKENS: Final = 1 << 20
"""Of a whole Score: its query once, each item once and each label once per item."""
_SEEDS: Final = 1 << 64


def refusal(message: Submit, *, vocabulary_size: int, context_tokens: int) -> str | None:
    """Say why a stream cannot be run, or None when it can."""
    return next(_submit_faults(message, vocabulary_size, context_tokens), None)


def warm_refusal(message: Warm, *, vocabulary_size: int, context_tokens: int) -> str | None:
    """Say why a prefix cannot be computed, or None when it can."""
    return next(_warm_faults(message, vocabulary_size, context_tokens), None)


def job_refusal(message: JobMessage, *, vocabulary_size: int, context_tokens: int) -> str | None:
    """Say why a job cannot be run, or None when it can."""
    match message:
        case Score():
            faults = _score_faults(message, vocabulary_size, context_tokens)
        case Assess():
            faults = _assess_faults(message, vocabulary_size, context_tokens)
        case Embed():
            faults = _embed_faults(message, vocabulary_size, context_tokens)
    return next(faults, None)


def _submit_faults(message: Submit, vocabulary_size: int, context_tokens: int) -> Iterator[str]:
    yield from _prompt_faults(message.prompt, vocabulary_size)
    yield from _length_faults(message, context_tokens)
    yield from _draw_faults(message)
    yield from _penalty_faults(message)
    yield from _token_list_faults(message, vocabulary_size)
    if message.grammar is not None:
        # Whatever is wrong with a grammar, clients of the engine know it by how the words begin.
        yield from (f"grammar: {fault}" for fault in _grammar_faults(message.grammar, vocabulary_size))
    yield from _whole("priority", message.priority, 0, MAX_PRIORITY)
    yield from _name_faults(salt=message.salt, session=message.session)


def _warm_faults(message: Warm, vocabulary_size: int, context_tokens: int) -> Iterator[str]:
    yield from _prompt_faults(message.prompt, vocabulary_size)
    yield from _bound_faults("the prompt", message.prompt, context_tokens)
    yield from _name_faults(salt=message.salt)


def _assess_faults(message: Assess, vocabulary_size: int, context_tokens: int) -> Iterator[str]:
    yield from _prompt_faults(message.prompt, vocabulary_size)
    yield from _bound_faults("the prompt", message.prompt, context_tokens)
    yield from _whole("top", message.top, 0, MAX_LOGPROBS)
    yield from _whole("priority", message.priority, 0, MAX_PRIORITY)
    yield from _name_faults(salt=message.salt)


def _embed_faults(message: Embed, vocabulary_size: int, context_tokens: int) -> Iterator[str]:
    yield from _whole("the number of prompts", len(message.prompts), 1, MAX_EMBED_PROMPTS)
    for prompt in message.prompts:
        yield from _prompt_faults(prompt, vocabulary_size)
        yield from _bound_faults("each prompt", prompt, context_tokens)
    yield from _whole("priority", message.priority, 0, MAX_PRIORITY)


def _bound_faults(what: str, prompt: Sequence[int], context_tokens: int) -> Iterator[str]:
    if len(prompt) > context_tokens:
        yield f"{what} must have at most {context_tokens} tokens, got {len(prompt)}: shorten it"


def _score_faults(message: Score, vocabulary_size: int, context_tokens: int) -> Iterator[str]:
    yield from _whole("the number of items", len(message.items), 1, MAX_SCORE_ITEMS)
    yield from _whole("the number of labels", len(message.labels), 1, MAX_SCORE_LABELS)
    if not message.query and not all(message.items):
        yield "query and item together must have at least 1 token, got 0"
    if not all(message.labels):
        yield "each label must have at least 1 token, got one of 0"
    for what, rows in (("query", [message.query]), ("items", message.items), ("labels", message.labels)):
        for ids in rows:
            yield from _id_faults(f"token ids of the {what}", ids, vocabulary_size)
    item_tokens = [len(item) for item in message.items]
    label_tokens = [len(label) for label in message.labels]
    longest = len(message.query) + max(item_tokens, default=0) + max(label_tokens, default=0)
    if longest > context_tokens:
        yield (
            f"query, longest item and longest label together must be at most {context_tokens} tokens,"
            f" got {longest}: shorten them"
        )
    total = len(message.query) + sum(item_tokens) + len(item_tokens) * sum(label_tokens)
    if total > MAX_SCORE_TOKENS:
        yield (
            f"query, items, and labels once per item must be at most {MAX_SCORE_TOKENS} tokens, got {total}:"
            " send fewer items at a time"
        )
    yield from _whole("priority", message.priority, 0, MAX_PRIORITY)
    yield from _name_faults(salt=message.salt)


def _prompt_faults(prompt: Sequence[int], vocabulary_size: int) -> Iterator[str]:
    if not prompt:
        yield "the prompt must have at least 1 token, got 0"
    yield from _id_faults("token ids of the prompt", prompt, vocabulary_size)


def _id_faults(what: str, ids: Iterable[int], vocabulary_size: int, *, secret: bool = True) -> Iterator[str]:
    lowest, highest = min(ids, default=0), max(ids, default=0)
    if lowest < 0 or highest >= vocabulary_size:
        worst = lowest if lowest < 0 else highest
        # What a prompt holds is not repeated, not even where it is wrong.
        found = ("one below" if lowest < 0 else "one above") if secret else str(worst)
        yield f"{what} must be between 0 and {vocabulary_size - 1}, got {found}"


def _length_faults(message: Submit, context_tokens: int) -> Iterator[str]:
    if message.max_tokens < 1:
        yield f"max_tokens must be at least 1, got {message.max_tokens}"
    total = len(message.prompt) + message.max_tokens
    if total > context_tokens:
        yield (
            f"prompt and max_tokens together must be at most {context_tokens} tokens,"
            f" got {len(message.prompt)} + {message.max_tokens}: shorten the prompt or lower max_tokens"
        )
    # A resumed stream brings what it emitted as the end of its prompt.
    yield from _whole("position", message.position, 0, len(message.prompt) - 1)
    original = len(message.prompt) - message.position
    if message.prompt_tokens not in (0, original):
        yield (
            f"prompt_tokens must be 0 or {original}, the length of the prompt less position,"
            f" got {message.prompt_tokens}"
        )
    yield from _whole("min_tokens", message.min_tokens, 0, message.position + message.max_tokens)


def _draw_faults(message: Submit) -> Iterator[str]:
    yield from _whole("seed", message.seed, 0, _SEEDS - 1)
    yield from _number("temperature", message.temperature, 0.0, math.inf)
    yield from _number("top_p", message.top_p, 0.0, 1.0)
    yield from _number("min_p", message.min_p, 0.0, 1.0)
    if message.top_k < 0:
        yield f"top_k must be at least 0, got {message.top_k}: 0 keeps all candidates"
    if message.logprobs is not None:
        yield from _whole("logprobs", message.logprobs, 0, MAX_LOGPROBS)


def _penalty_faults(message: Submit) -> Iterator[str]:
    yield from _number("presence_penalty", message.presence_penalty, -2.0, 2.0)
    yield from _number("frequency_penalty", message.frequency_penalty, -2.0, 2.0)
    # Above 0, as it divides; no more than 100, so that logits stay finite.
    yield from _number("repetition_penalty", message.repetition_penalty, 0.01, 100.0)


def _token_list_faults(message: Submit, vocabulary_size: int) -> Iterator[str]:
    yield from _whole("the number of stop_token_ids", len(message.stop_token_ids), 0, MAX_STOP_TOKEN_IDS)
    yield from _id_faults("stop_token_ids", message.stop_token_ids, vocabulary_size, secret=False)
    yield from _whole("the number of entries of logit_bias", len(message.logit_bias), 0, MAX_LOGIT_BIASES)
    yield from _id_faults("token ids of logit_bias", message.logit_bias, vocabulary_size, secret=False)
    for value in message.logit_bias.values():
        yield from _number("values of logit_bias", value, -100.0, 100.0)


def _grammar_faults(grammar: Grammar, vocabulary_size: int) -> Iterator[str]:
    # Characters first: what is far too long is not encoded to be counted.
    size_bytes = len(grammar.text)
    if size_bytes <= MAX_GRAMMAR_BYTES:
        size_bytes = len(grammar.text.encode("utf-8", "surrogatepass"))
    if size_bytes > MAX_GRAMMAR_BYTES:
        yield f"it must be at most {MAX_GRAMMAR_BYTES} bytes, got {size_bytes}: simplify it"
    if grammar.kind != "json_object" and not grammar.text.strip():
        yield f"of kind {grammar.kind} it must not be empty"
    if grammar.starts_after is not None:
        yield from _whole("starts_after", grammar.starts_after, 0, vocabulary_size - 1)


def _name_faults(**names: str) -> Iterator[str]:
    for name, value in names.items():
        if len(value) > MAX_NAME_CHARACTERS:
            yield f"{name} must be at most {MAX_NAME_CHARACTERS} characters, got {len(value)}"


def _whole(name: str, value: int, low: int, high: int) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{name} must be between {low} and {high}, got {value}"


def _number(name: str, value: float, low: float, high: float) -> Iterator[str]:
    # Written so that a NaN is refused.
    if not (low <= value <= high and math.isfinite(value)):
        bound = f"at least {low:g} and finite" if math.isinf(high) else f"between {low:g} and {high:g}"
        yield f"{name} must be {bound}, got {value:g}"
