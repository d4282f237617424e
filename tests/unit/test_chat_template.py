"""Pins what a chat template is given: messages as it expects them, tools, the beginning of an answer."""

from __future__ import annotations

import pytest

from tests.text_models import CHATML, byte_level, load, write_model
from tests.tool_texts import tool
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import ChatPrompt
from wicketgate.pipeline import chat_template
from wicketgate.pipeline.chat_messages import plain_messages, told_messages
from wicketgate.pipeline.chat_template import ChatTemplate
from wicketgate.pipeline.text import TextModel

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "hi"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}],
}
RESULT = {"role": "tool", "content": "7", "tool_call_id": "c"}
TOOL = tool("f", {})
VARIABLES = {"tools": None, "add_generation_prompt": True}


def template(source: str, **options: object) -> ChatTemplate:
    return ChatTemplate(source, VARIABLES, **options)


def test_tools_are_given_to_the_template():
    source = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"

    assert template(source).render([USER], {}, tools=[TOOL]) == "f"
    assert template(source).render([USER], {}) == ""


def test_a_template_for_tools_takes_the_place_of_the_other_where_there_are_any(tmp_path):
    entries = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "[TOOL_CALLS]"}]
    model = load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": entries}))

    assert model.tool_format == "mistral"
    assert model.render([USER], {}) == "plain"
    assert model.render([USER], {}, tools=[TOOL]) == "[TOOL_CALLS]"


def test_a_template_for_tools_may_have_a_file(tmp_path):
    write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": "plain"})
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("[TOOL_CALLS]")

    assert load(tmp_path).render([USER], {}, tools=[TOOL]) == "[TOOL_CALLS]"


def test_a_history_of_calls_is_given_as_objects():
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %};{% endfor %}"
    )

    assert template(source).render([USER, CALL, RESULT], {}) == 'user:hi;assistant:{"a": "é"};tool:7;'


@pytest.mark.parametrize(
    ("source", "role"),
    [("{{ messages[0].role }}", "system"), ("{{ messages[0].role }}{# developer #}", "developer")],
)
def test_a_developer_is_called_system_where_the_template_knows_none(source, role):
    assert template(source).render([{"role": "developer", "content": "x"}], {}) == role


def test_an_answer_goes_on_exactly_where_its_beginning_ends():
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )

    text = template(source).render([USER, {"role": "assistant", "content": "</> a "}], {}, continues=True)

    assert text == "<user>hi</><assistant></> a "


def test_the_mark_of_the_place_may_stand_in_a_message():
    text = template("{{ messages[0].content }}!").render(
        [{"role": "assistant", "content": "\ue000cut\ue001"}], {}, continues=True
    )

    assert text == "\ue000cut\ue001"


def test_a_template_that_leaves_the_beginning_of_the_answer_out_cannot_continue_it():
    with pytest.raises(InvalidRequestError, match="cannot continue the last message") as raised:
        template("x").render([USER, {"role": "assistant", "content": "a"}], {}, continues=True)

    assert raised.value.param == "messages[1]"


def test_a_text_without_end_is_refused():
    doubling = "{% set ns = namespace(t='x' * 1000000) %}{% for i in range(100000) %}{{ ns.t }}{% endfor %}"

    with pytest.raises(InvalidRequestError, match=f"more than {chat_template.MOST_CHARS} characters"):
        template(doubling).render([USER], {})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ thinking }}", "False"),
        ("{{ thinking }}{{ enable_thinking }}", "False"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_thinking_is_switched_by_whatever_name_the_template_has_for_it(source, text):
    assert template(source).render([USER], {"enable_thinking": False}) == text


def test_a_switch_that_the_client_names_as_the_template_does_wins():
    kwargs = {"enable_thinking": False, "thinking": True}

    assert template("{{ thinking }}").render([USER], kwargs) == "True"


ENDING = (
    "{{ messages[-1].content }}"
    "{% if add_generation_prompt %}<{{ messages[-1].role }}{{ x }}{{ tools is none }}>{% endif %}"
)


def test_where_an_answer_begins_is_asked_with_a_conversation_of_our_own():
    asked = template(ENDING)

    assert asked.ending([{"role": "user", "content": "<think>"}], {"x": 1}, has_tools=False) == "<user1True>"
    assert asked.ending([USER, CALL, RESULT], {}, has_tools=True) == "<toolFalse>"
    assert asked.ending([], {}, has_tools=False) == "<userTrue>"
    assert asked.ending([], {}, has_tools=False) == "<userTrue>"


def test_where_an_answer_begins_is_unknown_where_the_template_refuses_our_conversation():
    assert template("{{ raise_exception('no') }}").ending([USER], {}, has_tools=False) == ""


def test_what_clients_send_does_not_pile_up():
    asked = template(ENDING)

    endings = {asked.ending([USER], {"x": n}, has_tools=False) for n in range(200)}

    assert len(endings) == 200
    assert len(asked._endings) <= 64


def test_no_content_is_empty_content():
    assert plain_messages([CALL], knows_developer=False)[0]["content"] == ""


def test_calls_and_results_are_written_out_for_a_template_that_knows_none():
    said = {**CALL, "content": "Let me see."}

    told = told_messages(plain_messages([USER, said, RESULT, RESULT, USER], knows_developer=False), [])

    written = '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>'
    result = "<tool_response>\n7\n</tool_response>"
    assert told == [
        USER,
        {"role": "assistant", "content": f"Let me see.\n{written}"},
        {"role": "user", "content": f"{result}\n{result}"},
        USER,
    ]


def test_a_call_without_words_and_a_result_at_the_end_are_written_out():
    told = told_messages(plain_messages([CALL, RESULT], knows_developer=False), [])

    assert [message["role"] for message in told] == ["assistant", "user"]
    assert told[0]["content"].startswith("<tool_call>")


@pytest.mark.parametrize(
    ("system", "begins"),
    [("Be brief.", "Be brief.\n\nYou can call"), ("", "You can call"), (None, "You can call")],
)
def test_tools_are_told_in_the_system_message(system, begins):
    first = [] if system is None else [{"role": "system", "content": system}]

    told = told_messages([*first, USER], [TOOL])

    assert [message["role"] for message in told] == ["system", "user"]
    assert told[0]["content"].startswith(begins)


async def test_a_prompt_of_a_model_that_was_taught_no_tools_is_tokenised_with_them(tmp_path):
    model = TextModel.load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": CHATML}))
    prompt = ChatPrompt(messages=(USER, CALL, RESULT), template_kwargs={}, tools=(TOOL,))

    ids = await model.encode_prompt(prompt, inline_chars=100_000)

    model.close()
    text = model.decode(ids)
    assert text.startswith("<s>system:You can call")
    assert text.endswith("<s>user:<tool_response>\n7\n</tool_response>>")
