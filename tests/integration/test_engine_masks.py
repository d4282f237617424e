"""
Pins structured output: what grammars let through, what they cost others, and what a bad one can do.

The model that ships writes no JSON of its own accord, so every brace in these answers is the mask's work.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from wicketgate.engine.batch import RowError
from wicketgate.engine.mlx.masks import Grammars
from wicketgate.engine.mlx.sampling import row_state, sample
from wicketgate.engine.wire import Grammar, Submit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wicketgate.engine.mlx.masks import Mask

VOCABULARY = 1536
EOS = frozenset([2, 0])
PROMPT = list(range(300, 324))

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large", 7, None]},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "home": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "ok": {"type": "boolean"}},
            "required": ["zip", "ok"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "size", "scores", "home"],
    "additionalProperties": False,
}


def schema(document: object) -> Grammar:
    return Grammar("json_schema", json.dumps(document))


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


@pytest.fixture(scope="module")
def shared(demo_model: Path) -> Iterator[Grammars]:
    grammars = Grammars(demo_model, vocabulary_size=VOCABULARY, eos_token_ids=EOS)
    yield grammars
    grammars.close()


@pytest.fixture
def grammars(demo_model: Path) -> Iterator[Grammars]:
    """One of its own, for tests that end its process."""
    grammars = Grammars(demo_model, vocabulary_size=VOCABULARY, eos_token_ids=EOS)
    yield grammars
    grammars.close()


def answers(
    model: Any, messages: Sequence[Submit], masks: Sequence[Mask | None], *, most: int
) -> list[list[int]]:
    """Decode requests of one length side by side, each until its end; the plainest loop there is."""
    rows = [row_state(each, ends=EOS, mask=mask) for each, mask in zip(messages, masks, strict=True)]
    cache = make_prompt_cache(model)
    logits = model(mx.array([each.prompt for each in messages]), cache=cache)[:, -1]
    texts: list[list[int]] = [[] for _ in rows]
    running = set(range(len(rows)))
    for _ in range(most):
        tokens = sample(logits, rows).tokens
        logits = model(tokens[:, None], cache=cache)[:, -1]
        mx.async_eval(logits)
        values = tokens.tolist()
        for index in running:
            texts[index].append(values[index])
            if (mask := masks[index]) is not None:
                mask.advance(values[index])
        running = {
            index
            for index in running
            if values[index] not in EOS and ((mask := masks[index]) is None or mask.ending is None)
        }
        if not running:
            break
    return texts


def request(seed: int, **fields: Any) -> Submit:
    return Submit(**({"id": seed, "prompt": PROMPT, "max_tokens": 400, "seed": seed} | fields))


NUMBERS = {"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 1}, "maxItems": 4}
EITHER = {
    "anyOf": [
        {"const": "yes"},
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    ]
}


@pytest.mark.parametrize("document", [PERSON, NUMBERS, EITHER], ids=["object", "numbers", "either"])
def test_40_seeds_give_40_documents_of_the_schema(
    model: Any, tokenizer: Tokenizer, shared: Grammars, document: dict[str, Any]
) -> None:
    messages = [request(seed) for seed in range(40)]
    masks = [shared.open(seed, schema(document), []) for seed in range(40)]

    texts = [tokenizer.decode(text) for text in answers(model, messages, masks, most=400)]

    found = [json.loads(text) for text in texts]
    assert all(conforms(each, document) for each in found)
    assert len({json.dumps(each) for each in found}) > 2


def conforms(value: Any, document: dict[str, Any]) -> bool:
    """Judge the few keywords that are used here."""
    if "anyOf" in document:
        return any(conforms(value, each) for each in document["anyOf"])
    if "const" in document:
        return bool(value == document["const"])
    if "enum" in document:
        return value in document["enum"]
    match document["type"]:
        case "object":
            known = document["properties"]
            return (
                isinstance(value, dict)
                and set(value) <= set(known)
                and set(document["required"]) <= set(value)
                and all(conforms(part, known[name]) for name, part in value.items())
            )
        case "array":
            return len(value) <= document["maxItems"] and all(conforms(x, document["items"]) for x in value)
        case "string":
            pattern = document.get("pattern", "")
            return len(value) <= document.get("maxLength", 99) and re.search(pattern, value) is not None
        case "boolean":
            return isinstance(value, bool)
        case _:
            return not isinstance(value, bool) and document["minimum"] <= value <= document["maximum"]


@pytest.mark.parametrize(
    ("grammar", "wanted"),
    [
        (Grammar("regex", "[a-c]{3}-(on|off)"), r"[a-c]{3}-(on|off)"),
        (
            Grammar("lark", 'start: "let " NAME " = " NUMBER\nNAME: /[a-z]{1,5}/\nNUMBER: /[0-9]{1,4}/'),
            r"let [a-z]{1,5} = [0-9]{1,4}",
        ),
    ],
)
def test_expressions_and_grammars_shape_the_whole_answer(
    model: Any, tokenizer: Tokenizer, shared: Grammars, grammar: Grammar, wanted: str
) -> None:
    messages = [request(seed) for seed in range(20)]

    found = answers(model, messages, [shared.open(seed, grammar, []) for seed in range(20)], most=60)

    assert all(re.fullmatch(wanted, tokenizer.decode(text)) for text in found)


def test_a_json_object_is_an_object_of_any_kind(model: Any, tokenizer: Tokenizer, shared: Grammars) -> None:
    # The likeliest tokens would never close it; what closes it is wanted badly here.
    closing = {token: 12.0 for text in ("}", '"}') for token in tokenizer.encode(text).ids}
    messages = [request(seed, logit_bias=closing) for seed in range(10)]
    masks = [shared.open(seed, Grammar("json_object"), []) for seed in range(10)]

    found = answers(model, messages, masks, most=200)

    assert all(isinstance(json.loads(tokenizer.decode(text)), dict) for text in found)


def test_rows_beside_a_grammar_draw_what_they_draw_without_it(model: Any, shared: Grammars) -> None:
    plain = [request(1), request(2, temperature=0.0), request(3, top_p=0.8, presence_penalty=1.0)]
    alone = [answers(model, [each], [None], most=24)[0] for each in plain]
    masks = [None, shared.open(9, schema(PERSON), []), None, None, shared.open(8, schema(PERSON), [])]
    messages = [plain[0], request(9), plain[1], plain[2], request(8, temperature=0.0)]

    beside = answers(model, messages, masks, most=24)

    assert [beside[index] for index in (0, 2, 3)] == alone


def test_a_stream_that_goes_on_elsewhere_goes_on_within_its_grammar(
    model: Any, tokenizer: Tokenizer, shared: Grammars
) -> None:
    whole = answers(model, [request(5)], [shared.open(1, schema(PERSON), [])], most=400)[0]
    cut = len(whole) // 2
    resumed = request(5, prompt=[*PROMPT, *whole[:cut]], position=cut, max_tokens=400 - cut)

    rest = answers(model, [resumed], [shared.open(2, schema(PERSON), whole[:cut])], most=400)[0]

    assert whole[:cut] + rest == whole
    assert conforms(json.loads(tokenizer.decode(whole)), PERSON)


def free_text(model: Any, seed: int) -> tuple[list[int], int]:
    """Return what is said without a grammar, and the place of a token in it that was not said before."""
    text = answers(model, [request(seed)], [None], most=30)[0]
    place = next(place for place in range(8, 30) if text[place] not in text[:place])
    return text, place


def test_a_grammar_holds_after_the_token_that_it_starts_after(
    model: Any, tokenizer: Tokenizer, shared: Grammars
) -> None:
    free, place = free_text(model, 5)
    grammar = Grammar("json_schema", json.dumps(PERSON), starts_after=free[place])

    text = answers(model, [request(5)], [shared.open(1, grammar, [])], most=400)[0]

    assert text[: place + 1] == free[: place + 1]
    assert conforms(json.loads(tokenizer.decode(text[place + 1 :])), PERSON)


@pytest.mark.parametrize("beyond", [-3, 0, 1, 9])
def test_a_stream_that_goes_on_elsewhere_knows_whether_its_grammar_holds(
    model: Any, shared: Grammars, beyond: int
) -> None:
    free, place = free_text(model, 5)
    grammar = Grammar("json_schema", json.dumps(PERSON), starts_after=free[place])
    whole = answers(model, [request(5)], [shared.open(1, grammar, [])], most=400)[0]
    cut = place + beyond
    resumed = request(5, prompt=[*PROMPT, *whole[:cut]], position=cut, max_tokens=400 - cut)

    rest = answers(model, [resumed], [shared.open(2, grammar, whole[:cut])], most=400)[0]

    assert whole[:cut] + rest == whole


def test_a_grammar_that_is_complete_with_nothing_ends_its_row_when_it_begins_to_hold(
    model: Any, shared: Grammars
) -> None:
    free, place = free_text(model, 5)
    mask = shared.open(1, Grammar("lark", 'start: ""', starts_after=free[place]), [])

    text = answers(model, [request(5)], [mask], most=60)[0]

    assert text == free[: place + 1]
    assert mask.ending == "stop"


def test_a_bad_grammar_is_refused_before_it_holds(shared: Grammars) -> None:
    with pytest.raises(RowError, match=r"^grammar: "):
        shared.open(1, Grammar("regex", "(", starts_after=7), [])


def test_what_was_emitted_must_be_of_the_grammar(shared: Grammars) -> None:
    with pytest.raises(RowError, match="grammar"):
        shared.open(1, Grammar("regex", "[0-9]+"), PROMPT)


def test_a_complete_grammar_ends_its_row_without_an_end_token(
    demo_model: Path, model: Any, tokenizer: Tokenizer
) -> None:
    grammars = Grammars(demo_model, vocabulary_size=VOCABULARY, eos_token_ids=[])
    mask = grammars.open(1, Grammar("regex", "[a-z]{4}"), [])

    text = answers(model, [request(1)], [mask], most=20)[0]
    ending = mask.ending
    grammars.close()

    assert ending == "stop"
    assert re.fullmatch("[a-z]{4}", tokenizer.decode(text))


def test_where_a_grammar_may_end_a_row_is_held_open_until_it_has_its_tokens(
    model: Any, tokenizer: Tokenizer, shared: Grammars
) -> None:
    messages = [request(seed, min_tokens=6) for seed in range(20)]
    masks = [shared.open(seed, Grammar("regex", "[0-9]*"), []) for seed in range(20)]

    found = answers(model, messages, masks, most=30)

    assert all(len([token for token in text if token not in EOS]) >= 6 for text in found)


def test_a_grammar_that_is_complete_ends_even_a_row_that_is_held_open(model: Any, shared: Grammars) -> None:
    mask = shared.open(1, Grammar("regex", "ab"), [])

    text = answers(model, [request(1, min_tokens=50)], [mask], most=60)[0]

    assert (mask.ending, len(text) <= 2) == ("stop", True)


def test_a_model_with_more_ids_than_its_tokenizer_never_draws_those(demo_model: Path) -> None:
    grammars = Grammars(demo_model, vocabulary_size=VOCABULARY + 70, eos_token_ids=EOS)

    words = grammars.open(1, Grammar("regex", "(.|\n)*"), []).allowed()
    grammars.close()

    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    assert len(words) == (VOCABULARY + 70 + 31) // 32
    assert bits[:VOCABULARY].sum() > VOCABULARY * 0.9
    assert bits[VOCABULARY:].sum() == 0


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar("json_schema", "{"), "EOF while parsing"),
        (Grammar("json_schema", "[1]"), "schema"),
        (Grammar("json_schema", '{"type": "nope"}'), "Invalid type: nope"),
        (Grammar("json_schema", "false"), "Expecting object schema"),
        (Grammar("json_schema", '{"$ref": "#/nowhere"}'), "nowhere"),
        (Grammar("json_schema", '{"$ref": "http://127.0.0.1:9/x"}'), "127.0.0.1"),
        (Grammar("json_schema", '{"properties":{"a":' * 1000 + "{}" + "}}" * 1000), "recursion limit"),
        (Grammar("regex", "(["), "unclosed"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("regex", "(" * 30_000 + ")" * 30_000), "invalid regex"),
        (Grammar("lark", "start: missing"), "unknown name"),
        (Grammar("lark", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000), "deeply nested"),
        (Grammar("lark", "\0"), "lexer error"),
    ],
)
def test_a_bad_grammar_is_refused_with_its_reason(shared: Grammars, grammar: Grammar, words: str) -> None:
    with pytest.raises(RowError, match=re.escape(words)) as caught:
        shared.open(77, grammar, [])

    assert caught.value.key == 77
    assert len(str(caught.value)) < 400


ENDLESS = schema(
    {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i % 26) * (i // 26 + 1)}.*"} for i in range(60)]}
)
COSTLY = {
    "patterns that never end": ENDLESS,
    "optional letters": Grammar("regex", "a?" * 30_000),
    "optional letters in a schema": schema({"type": "string", "pattern": "^" + "a?" * 15_000 + "$"}),
}


@pytest.mark.parametrize("grammar", COSTLY.values(), ids=COSTLY.keys())
def test_a_grammar_that_costs_too_much_is_refused_and_nobody_else_notices(
    model: Any, grammars: Grammars, caplog: pytest.LogCaptureFixture, grammar: Grammar
) -> None:
    wanted = answers(model, [request(5)], [grammars.open(1, schema(PERSON), [])], most=400)[0]
    neighbour = grammars.open(2, schema(PERSON), whole := wanted[:9])

    with pytest.raises(RowError, match="too much time or memory"):
        grammars.open(3, grammar, [])

    message = request(5, prompt=[*PROMPT, *whole], position=9, max_tokens=391)
    assert [*whole, *answers(model, [message], [neighbour], most=400)[0]] == wanted
    assert [record.message for record in caplog.records] == ["mask_process_lost"]


def test_a_grammar_that_cost_too_much_once_costs_nothing_the_second_time(
    grammars: Grammars, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(RowError, match="too much time or memory"):
            grammars.open(3, ENDLESS, [])

    assert len(caplog.records) == 1


def test_a_chain_of_rules_that_is_as_deep_as_its_size_allows_is_compiled(grammars: Grammars) -> None:
    rules = [f"r{index}: r{index + 1}" for index in range(4000)]
    text = "\n".join(["start: r0", *rules, 'r4000: "a"'])

    mask = grammars.open(1, Grammar("lark", text), [])

    assert mask.ending is None


def processes(command: str) -> list[int]:
    """Return the ids of our own child processes that run a module."""
    command_line = ["pgrep", "-P", str(os.getpid()), "-f", command]
    listed = subprocess.run(command_line, capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.needs("pgrep")
def test_rows_go_on_where_they_were_when_the_process_was_killed(
    model: Any, grammars: Grammars, caplog: pytest.LogCaptureFixture
) -> None:
    others = set(processes("mask_process"))
    first = grammars.open(1, schema(PERSON), [])
    wanted = answers(model, [request(5)], [first], most=400)[0]
    mask = grammars.open(2, schema(PERSON), wanted[:5])
    (process,) = set(processes("mask_process")) - others

    os.kill(process, signal.SIGKILL)
    message = request(5, prompt=[*PROMPT, *wanted[:5]], position=5, max_tokens=395)
    rest = answers(model, [message], [mask], most=400)[0]

    assert wanted[:5] + rest == wanted
    assert caplog.records


def test_a_process_that_cannot_be_started_refuses_grammars_and_no_more(
    demo_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grammars = Grammars(
        demo_model, vocabulary_size=VOCABULARY, eos_token_ids=EOS, command=["/nowhere/python"]
    )

    with pytest.raises(RowError, match="cannot be computed now"):
        grammars.open(1, Grammar("json_object"), [])
    grammars.close()

    assert [record.message for record in caplog.records] == ["mask_process_not_started"]


def test_a_process_that_ends_at_once_is_not_the_grammars_fault(
    demo_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    grammars = Grammars(demo_model, vocabulary_size=VOCABULARY, eos_token_ids=EOS, command=command)

    for _ in range(2):
        with pytest.raises(RowError, match="cannot be computed now"):
            grammars.open(1, Grammar("json_object"), [])
    grammars.close()


@pytest.mark.parametrize("content", [None, "{", "tokenizer of another model"])
def test_a_vocabulary_that_cannot_be_used_is_named_as_the_reason(
    demo_model: Path, tmp_path: Path, content: str | None
) -> None:
    if content == "{":
        (tmp_path / "tokenizer.json").write_text(content)
    elif content is not None:
        shutil.copy(demo_model / "tokenizer.json", tmp_path)
    grammars = Grammars(tmp_path, vocabulary_size=1000, eos_token_ids=[0])

    with pytest.raises(RowError, match="this model's vocabulary cannot be used"):
        grammars.open(1, Grammar("json_object"), [])
    grammars.close()
