"""Pins whole answers, from tokens to pieces: reasoning, calls, stops and log-probabilities together."""

from __future__ import annotations

import pytest

from tests.text_models import CHATML, added, asking, byte_level, chat, load, special, write_model
from tests.tool_texts import tool
from wicketgate.inference import CallSyntax, OutputForm, TextPrompt, TokenChunk, TokenLogprob
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

THINKING = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if tools %}<tool_call>{% for t in tools %}{{ t | tojson }}{% endfor %}{# tool_call.name #}{% endif %}"
    "{% if add_generation_prompt %}|{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)
TOOLS = (tool("f", {}), {"type": "other"})
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
OPENED = [CallOpened(index=0, name="f"), CallArguments(index=0, text='{"a": 1}')]
NATIVE = OutputForm(calls=CallSyntax.NATIVE, tools=("f",))


def write(folder, template: str, *tokens):
    config = {"chat_template": template, "eos_token": "</s>"}
    return load(write_model(folder, byte_level(*tokens), tokenizer_config=config))


@pytest.fixture
def thinker(tmp_path):
    return write(tmp_path, THINKING, added("<think>"), added("</think>"))


@pytest.fixture
def model(tmp_path):
    return write(tmp_path, CHATML)


def tokens(model, text: str, *, logprobs: bool = False) -> TokenChunk:
    ids = tuple(model._tokenizer.encode(text, add_special_tokens=False).ids)
    entries = tuple(TokenLogprob(token=token, logprob=-1.0, top=()) for token in ids) if logprobs else None
    return TokenChunk(ids, entries)


def whole(stream, chunk: TokenChunk) -> list[object]:
    return stream.feed(chunk) + stream.flush()


def test_reasoning_comes_apart_from_the_text_and_its_tokens_are_counted(thinker):
    stream = thinker.stream(asking())

    assert whole(stream, tokens(thinker, "hm</think>\n\nYes.")) == [
        ReasoningChunk(text="hm", tokens=3),
        TextChunk(text="Yes.", tokens=6),
    ]
    assert (stream.tokens, stream.reasoning_tokens) == (9, 3)


def test_whether_the_answer_begins_with_reasoning_is_what_the_template_appends(thinker):
    assert thinker.opens_reasoning(chat("</think>"))
    assert not thinker.opens_reasoning(chat("<think>", enable_thinking=False))


def test_an_answer_that_goes_on_is_in_reasoning_where_its_beginning_is(thinker):
    assert thinker.opens_reasoning(chat("<think>I", continues=True))
    assert not thinker.opens_reasoning(chat("I", continues=True))


def test_what_a_model_says_about_thinking(thinker, tmp_path_factory):
    plain = write(tmp_path_factory.mktemp("plain"), CHATML)
    stubborn = write(tmp_path_factory.mktemp("stubborn"), CHATML, added("<think>"), added("</think>"))

    facts = [(m.thinks, m.can_stop_thinking, m.opens_reasoning(chat())) for m in (thinker, plain, stubborn)]

    assert facts == [(True, True, True), (False, False, False), (True, False, False)]
    assert thinker.think_end_id == thinker._tokenizer.token_to_id("</think>")
    assert plain.think_end_id is None


def test_a_stop_text_does_not_match_in_reasoning(thinker):
    stream = thinker.stream(asking(stop=("Yes",)))

    assert whole(stream, tokens(thinker, "Yes</think>No. Yes.")) == [
        ReasoningChunk(text="Yes", tokens=4),
        TextChunk(text="No. ", tokens=7),
    ]
    assert stream.stop == "Yes"


def test_a_raw_answer_is_text_whatever_is_in_it(thinker):
    output = OutputForm(is_raw=True)
    stream = thinker.stream(asking(prompt=TextPrompt(text="x"), output=output))

    assert whole(stream, tokens(thinker, "<think>a</think>")) == [
        TextChunk(text="<think>a</think>", tokens=3)
    ]


def test_a_call_comes_between_the_texts_around_it(thinker):
    stream = thinker.stream(asking(prompt=chat(tools=TOOLS, enable_thinking=False), output=NATIVE))
    chunk = tokens(thinker, f"So: {CALL}\nDone.")

    pieces = whole(stream, chunk)

    assert [pieces[0].text, *pieces[1:3], pieces[3].text] == ["So: ", *OPENED, "Done."]
    assert (stream.calls, stream.tokens) == (1, len(chunk.tokens))


def test_calls_are_text_where_none_are_wanted(thinker):
    stream = thinker.stream(asking(prompt=chat(enable_thinking=False)))

    assert "".join(piece.text for piece in whole(stream, tokens(thinker, CALL))) == CALL


def test_text_that_a_stop_holds_back_comes_out_before_a_call_and_no_stop_reaches_across_it(thinker):
    stream = thinker.stream(
        asking(prompt=chat(tools=TOOLS, enable_thinking=False), output=NATIVE, stop=("END",))
    )

    pieces = whole(stream, tokens(thinker, f"E{CALL}ND"))

    assert [piece.text for piece in pieces if isinstance(piece, TextChunk)] == ["E", "ND"]
    assert stream.stop is None


def test_a_stop_in_arguments_is_none(thinker):
    stream = thinker.stream(
        asking(prompt=chat(tools=TOOLS, enable_thinking=False), output=NATIVE, stop=('"a"',))
    )

    assert whole(stream, tokens(thinker, CALL)) == OPENED


def test_a_stop_ends_what_comes_with_it_in_the_same_tokens(thinker):
    stream = thinker.stream(
        asking(prompt=chat(tools=TOOLS, enable_thinking=False), output=NATIVE, stop=("<<",))
    )

    assert [piece.text for piece in whole(stream, tokens(thinker, f"a<<{CALL}"))] == ["a"]
    assert stream.calls == 0


def test_a_stop_ends_what_comes_with_it_in_one_token(tmp_path):
    model = write(tmp_path, CHATML, added(f"a!{CALL}"))
    stream = model.stream(asking(prompt=chat(tools=TOOLS), output=NATIVE, stop=("!",)))

    assert [piece.text for piece in whole(stream, tokens(model, f"a!{CALL}"))] == ["a"]


def test_one_call_more_than_wanted_ends_the_answer(thinker):
    output = OutputForm(calls=CallSyntax.NATIVE, tools=("f",), max_calls=1)
    stream = thinker.stream(asking(prompt=chat(tools=TOOLS, enable_thinking=False), output=output))

    assert whole(stream, tokens(thinker, CALL + CALL)) == OPENED
    assert stream.stopped
    assert (stream.stop, stream.calls) == (None, 1)


def test_forced_calls_come_after_reasoning(thinker):
    output = OutputForm(calls=CallSyntax.FORCED, tools=("f",))
    stream = thinker.stream(asking(output=output))

    assert whole(stream, tokens(thinker, 'hm</think>[{"name": "f", "parameters": {"a": 1}}]')) == [
        ReasoningChunk(text="hm", tokens=3),
        *OPENED,
    ]


def test_a_model_that_was_taught_no_tools_is_told_of_them_and_of_a_form_that_is_read(model):
    text = model.render([{"role": "user", "content": "hi"}], {}, tools=TOOLS[:1])
    stream = model.stream(asking(prompt=chat(tools=TOOLS), output=NATIVE))

    assert (model.tool_format, model.tool_start_id) == (None, None)
    assert text.startswith("<s>system:")
    assert '"name": "f"' in text
    assert whole(stream, tokens(model, CALL)) == OPENED


def test_special_tokens_that_mark_a_call_are_read_and_never_shown(tmp_path):
    names = ("[TOOL_CALLS]", "[ARGS]")
    model = write(tmp_path, "[TOOL_CALLS] {{ messages }}", *map(special, names))
    stream = model.stream(asking(prompt=chat(tools=TOOLS), output=NATIVE))

    pieces = whole(stream, tokens(model, 'a[ARGS][TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]no'))

    assert model.tool_format == "mistral"
    assert model.tool_start_id == model._tokenizer.token_to_id("[TOOL_CALLS]")
    assert [piece for piece in pieces if not isinstance(piece, TextChunk)] == OPENED
    assert [piece.text for piece in pieces if isinstance(piece, TextChunk)] == ["a", "no"]


@pytest.mark.parametrize(
    ("template", "names", "are_tokens"),
    [
        (CHATML, (), False),
        (CHATML, ("<tool_call>",), False),
        (THINKING, ("<tool_call>", "</tool_call>"), True),
        ("[TOOL_CALLS]", (), None),
    ],
)
def test_whether_the_marks_of_calls_are_tokens_is_known(tmp_path, template, names, are_tokens):
    assert write(tmp_path, template, *map(added, names)).call_marks_are_tokens is are_tokens


def test_special_tokens_of_another_kind_are_not_shown_in_an_answer_that_is_read(tmp_path):
    model = write(tmp_path, "[TOOL_CALLS] {{ messages }}", special("[TOOL_CALLS]"))
    stream = model.stream(asking(prompt=chat(tools=TOOLS), output=NATIVE))

    assert whole(stream, tokens(model, "a<s>b"))[0].text == "ab"


def test_log_probabilities_are_those_of_visible_tokens_alone(thinker):
    stream = thinker.stream(asking(prompt=chat(tools=TOOLS), output=NATIVE, stop=("!",), logprobs=0))

    pieces = stream.feed(tokens(thinker, f"hm</think>\n\nSo: {CALL}\nDone!", logprobs=True)) + stream.flush()

    said = [piece for piece in pieces if isinstance(piece, TextChunk)]
    assert [piece.text for piece in said] == ["So: ", "Done"]
    assert [
        b"".join(thinker.token_bytes(entry.token) for entry in piece.logprobs).decode() for piece in said
    ] == ["So: ", "Done"]


def test_the_text_of_tokens_is_what_was_tokenised(thinker):
    assert thinker.decode(tokens(thinker, "<s>é</think>").tokens) == "<s>é</think>"
