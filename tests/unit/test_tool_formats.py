"""Pins each way of writing tool calls: how a model's is found out, what is read, what is left as text."""

from __future__ import annotations

import json

import pytest

from tests.tool_texts import WRITERS, Read, marked, mistral_list, reader
from wicketgate.pipeline.thinking import XTML_TOKENS
from wicketgate.pipeline.tools.formats import TOOL_FORMATS, tool_format

ARGUMENTS = {"city": 'Zürich, "ZH" {x}', "days": 3, "exact": True, "notes": None, "tags": ["a", "b"]}
SCHEMA = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "exact": {"type": "boolean"},
    "notes": {"type": ["string", "null"]},
    "tags": {"type": "array"},
}
TOOLS = {"weather": SCHEMA, "now": {}}


def read(form: str, text: str, **options: object) -> Read:
    """Fed character by character, as the hardest way."""
    return Read(reader(form, TOOLS, **options), text)


def inside(form: str, text: str) -> Read:
    return read(form, marked(form, text))


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_call_is_read_and_the_text_around_it_stays(form):
    text = "Let me see. " + marked(form, WRITERS[form]("weather", ARGUMENTS)) + "\nDone <b>."

    answer = read(form, text)

    assert answer.loaded == [("weather", ARGUMENTS)]
    assert answer.text == "Let me see. Done <b>."


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_call_without_arguments_has_an_empty_object(form):
    answer = inside(form, WRITERS[form]("now", {}))

    assert answer.calls == [("now", "{}")]


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_calls_that_follow_each_other_are_counted_and_line_breaks_between_them_are_not_text(form):
    written = [marked(form, WRITERS[form](name, {"city": "x"})) for name in ("weather", "now", "weather")]

    answer = read(form, "\n".join(written) + "\n")

    assert answer.calls == [(name, '{"city": "x"}') for name in ("weather", "now", "weather")]
    assert answer.text == ""


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_call_of_a_tool_that_was_not_offered_is_text(form):
    text = "a" + marked(form, WRITERS[form]("shell", {"command": "rm"})) + "\nb"

    assert (read(form, text).text, read(form, text).calls) == (text, [])


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_what_cannot_be_read_is_text(form):
    text = "a" + marked(form, "I would rather not.") + "\nb"

    assert (read(form, text).text, read(form, text).calls) == (text, [])


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_marker_that_is_not_finished_is_text(form):
    text = "a" + TOOL_FORMATS[form].start[:-1]

    assert read(form, text).text == text


@pytest.mark.parametrize("form", sorted(set(WRITERS) - {"glm47", "laguna", "longcat", "minicpm5"}))
def test_a_whole_call_needs_no_end_marker(form):
    answer = read(form, TOOL_FORMATS[form].start + WRITERS[form]("weather", ARGUMENTS))

    assert (answer.loaded, answer.text) == ([("weather", ARGUMENTS)], "")


@pytest.mark.parametrize("form", ["glm47", "laguna", "longcat", "minicpm5"])
def test_a_call_that_may_be_cut_short_unnoticed_needs_its_end_marker(form):
    text = TOOL_FORMATS[form].start + WRITERS[form]("weather", ARGUMENTS)

    assert (read(form, text).text, read(form, text).calls) == (text, [])


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_the_answer_ends_where_it_would_hold_more_calls_than_it_may(form):
    call = marked(form, WRITERS[form]("now", {"city": "x"}))
    reading = reader(form, TOOLS, max_calls=1)

    answer = Read(reading, [call + call + "after"])

    assert answer.calls == [("now", '{"city": "x"}')]
    assert answer.text == ""
    assert reading.is_over


SIGNS = [
    ("<minimax:tool_call>", "minimax_m2"),
    ("<|tool_call> <tool_call|>", "gemma4"),
    ("<|tool_call>", None),
    ("<start_function_call>", "function_gemma"),
    ("<longcat_tool_call> <tool_call> tool_call.name", "longcat"),
    ("<tool_call><arg_key>", "glm47"),
    ("<|tool_list_start|>", "pythonic"),
    ("<|tool_call_start|>", "pythonic"),
    ("<tool_call>\n<function=", "qwen3_coder"),
    ("'<tool_call>\\n<function='", "qwen3_coder"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ('<function name="f"><param name="p">', "minicpm5"),
    ("[TOOL_CALLS]", "mistral"),
    ("<atem:function_calls>", "muse_spark"),
    ("<tool_call> {{ tool_call.name }}", "json_tools"),
    ("<tool_call>", None),
    ("{{ messages }}", None),
]


@pytest.mark.parametrize(("template", "name"), SIGNS)
def test_the_form_is_found_in_the_template(template, name):
    found = tool_format(template=template, vocabulary=())

    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("vocabulary", "name"),
    [
        (XTML_TOKENS, "kimi_k3"),
        (XTML_TOKENS[1:], None),
        (("<|tool_call_start|>", "<|tool_call_end|>"), "pythonic"),
        (("<|tool_call_start|>",), None),
    ],
)
def test_without_a_template_that_says_it_the_form_is_found_in_the_vocabulary(vocabulary, name):
    found = tool_format(template=None, vocabulary=vocabulary)

    assert (found and found.name) == name


@pytest.mark.parametrize(("named", "name"), [("laguna", "laguna"), ("nonsense", "mistral"), (5, "mistral")])
def test_the_form_that_the_configuration_names_wins_where_it_is_known(named, name):
    assert tool_format(template="[TOOL_CALLS]", vocabulary=(), named=named).name == name


def test_mistral_writes_a_list_too():
    answer = inside("mistral", mistral_list("weather", ARGUMENTS) + "\nDone.")

    assert answer.loaded == [("weather", ARGUMENTS)]
    assert answer.text == "Done."


def test_mistral_repeats_headers_without_the_marker():
    answer = inside("mistral", 'now[ARGS]{"a": 1} weather [ARGS] {"b": 2}')

    assert answer.loaded == [("now", {"a": 1}), ("weather", {"b": 2})]


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS] \n",
        "[TOOL_CALLS]now",
        "[TOOL_CALLS]now[ARGS]",
        "[TOOL_CALLS]now[ARGS]7",
        "[TOOL_CALLS][",
    ],
)
def test_mistrals_call_that_does_not_begin_is_text(text):
    assert (read("mistral", text).text, read("mistral", text).calls) == (text, [])


def test_mistrals_text_after_a_call_that_looks_like_a_name_is_text():
    answer = inside("mistral", 'now[ARGS]{"a": 1}\nThat is all')

    assert answer.text == "That is all"


def test_a_header_longer_than_any_name_is_text_at_once():
    reading = reader("kimi_k2", TOOLS)
    text = TOOL_FORMATS["kimi_k2"].start + "x" * 1001

    answer = Read(reading, [text, "y", TOOL_FORMATS["kimi_k2"].end])

    assert answer.text == text + "y" + TOOL_FORMATS["kimi_k2"].end


def test_a_name_longer_than_any_is_text():
    text = "functions." + "x" * 1000 + ":0<|tool_call_argument_begin|>{}"

    answer = Read(reader("kimi_k2", {"x" * 1000: {}}), [marked("kimi_k2", text)])

    assert answer.text == marked("kimi_k2", text)


def test_arguments_that_break_off_end_the_call_and_what_follows_is_text():
    answer = inside("kimi_k2", 'functions.now:0<|tool_call_argument_begin|>{"a": <oops>')

    assert answer.calls == [("now", '{"a": ')]
    assert answer.text == "<oops>"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("now", {}),
        (' {"name": "now", "arguments": {"a": NaN}} ', {"a": None}),
        ('{"name": "now", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "now", "arguments": null}', {}),
        ('[{"name": "now"}]', {}),
        ('now\n{"a": 1}', {"a": 1}),
        ("now {'a': 1}", {"a": 1}),
        ("now <arg_key>a</arg_key>\\n<arg_value>[1]</arg_value><arg_key>b</arg_key>", {"a": [1]}),
        ("now<arg_key>a</arg_key><arg_value>1", {}),
        ("now<arg_key>a", {}),
    ],
)
def test_glm_models_write_calls_in_other_ways_too(text, arguments):
    assert inside("glm47", text).loaded == [("now", arguments)]


@pytest.mark.parametrize("text", ["now and then", "[5]", '{"name": "now", "arguments": 5}', "{"])
def test_what_glm_models_write_without_arguments_must_be_a_call(text):
    assert inside("glm47", text).calls == []


def test_a_declared_text_of_glm_models_is_not_read_as_something_else():
    pairs = (f"<arg_key>{key}</arg_key><arg_value>12</arg_value>" for key in ("city", "days"))
    text = "weather" + "".join(pairs)

    assert inside("glm47", text).loaded == [("weather", {"city": "12", "days": 12})]


def test_a_number_that_is_none_makes_a_call_of_qwens_coder_text():
    text = marked("qwen3_coder", "<function=weather><parameter=days>few</parameter></function>")

    assert read("qwen3_coder", text).text == text


def test_tags_that_are_never_closed_end_the_search():
    assert inside("qwen3_coder", "<function=weather><parameter=city>x</function>").loaded == [("weather", {})]


def test_minicpm_needs_the_name_at_once():
    assert inside("minicpm5", "> x").calls == []


def test_the_end_of_a_call_inside_a_parameter_of_muse_spark_is_its_text():
    value = "</atem:invoke>"
    text = f'<atem:invoke name="now"><atem:parameter name="a">{value}</atem:parameter></atem:invoke>'

    assert inside("muse_spark", text).loaded == [("now", {"a": value})]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[now(a=[true, null], b={'c': false})]", {"a": [True, None], "b": {"c": False}}),
        ("[now(a=1, b=two words, c='x', d=\"y\")]", {"a": 1, "b": "two words", "c": "x", "d": "y"}),
        ("[now(a=2 ** 3)]", {"a": "2 ** 3"}),
        ("[now(1)]", None),
        ("[now(**x)]", None),
        ("[now()()]", None),
        ("[now, now]", None),
        ("[]", None),
        ("now(a=1)", None),
        ("[now(a=1", None),
        ("[now(a=x)] if x", {"a": "x"}),
        ("[now(a=1)] + [2]", {"a": 1}),
        ('[now(a="\\d")]', {"a": "\\d"}),
    ],
)
def test_python_calls_have_constants_and_names_for_all_arguments(text, arguments):
    assert inside("pythonic", text).loaded == ([] if arguments is None else [("now", arguments)])


def test_a_name_of_python_may_have_dots():
    assert (
        Read(reader("pythonic", {"a.b.c": {}}), [marked("pythonic", "[a.b.c(x=1)]")]).calls[0][0] == "a.b.c"
    )


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (
            'call:now{<|"|>a b<|"|>:1, "c":{d: [1, {e:true}] , f:text}}',
            {"a b": 1, "c": {"d": [1, {"e": True}], "f": "text"}},
        ),
        ("call:now{a:}", {"a": ""}),
        ("call:now{a:[", None),
        ("call:now{a:1", None),
        ("call:now{:1}", None),
        ('call:now{a:<|"|>b}', None),
        ("call:now{" * 5, None),
    ],
)
def test_gemmas_objects_have_bare_keys_and_another_quote(text, arguments):
    assert inside("gemma4", text).loaded == ([] if arguments is None else [("now", arguments)])


def test_xtml_arguments_can_be_one_object():
    whole = '<|open|>json type="object"<|sep|>{"a": 1}<|close|>json<|sep|>'
    text = f'<|open|>call tool="now"<|sep|>{whole}<|close|>call<|sep|>'

    assert inside("kimi_k3", text).loaded == [("now", {"a": 1})]
    assert inside("kimi_k3", text.replace('{"a": 1}', "[1]")).calls == []


def test_xtml_attributes_are_unescaped_and_arguments_without_a_key_are_left_out():
    name = 'a"&b'
    text = (
        '<|open|>call tool="a&quot;&amp;b"<|sep|><|open|>argument<|sep|>x<|close|>argument<|sep|>'
        '<|open|>argument key="k" type="number"<|sep|>1.5<|close|>argument<|sep|><|close|>call<|sep|>'
    )

    assert Read(reader("kimi_k3", {name: {}}), [marked("kimi_k3", text)]).loaded == [(name, {"k": 1.5})]


@pytest.mark.parametrize("form", sorted(set(WRITERS)))
def test_nesting_without_end_is_text_and_does_no_harm(form):
    text = marked(form, WRITERS[form]("now", {"a": "@"}).replace('"@"', "@").replace("@", "[" * 50_000))

    answer = Read(reader(form, TOOLS), [text])

    assert len(answer.calls) <= 1


def test_what_json_cannot_say_is_said_in_another_way():
    text = "weather<arg_key>days</arg_key><arg_value>[NaN, (1, Infinity)]</arg_value>"
    lone = 'weather<arg_key>days</arg_key><arg_value>["\\ud800"]</arg_value>'

    assert inside("glm47", text.replace("(", "[").replace(")", "]")).loaded == [
        ("weather", {"days": [None, [1, None]]})
    ]
    assert inside("glm47", lone).calls == [("weather", json.dumps({"days": ["\ud800"]}))]


def test_what_json_has_no_form_for_makes_a_call_text():
    assert inside("glm47", "weather<arg_key>days</arg_key><arg_value>{1, 2}</arg_value>").calls == []
