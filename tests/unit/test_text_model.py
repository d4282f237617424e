"""Pins what a model's folder means for text: template, special tokens, end tokens, bytes of a token."""

from __future__ import annotations

import pytest
from tokenizers import decoders

from tests.text_models import byte_level, load, sentencepiece, write_model
from wicketgate.errors import ConfigurationError, InvalidRequestError
from wicketgate.inference import ChatPrompt, TextPrompt, TokenPrompt
from wicketgate.pipeline.text import TextModel

pytestmark = pytest.mark.anyio
CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture
def model(tmp_path):
    folder = write_model(
        tmp_path,
        byte_level(),
        config={"max_position_embeddings": 64, "vocab_size": 300, "eos_token_id": 7},
        generation_config={"eos_token_id": [5]},
        tokenizer_config={"chat_template": CHATML, "eos_token": {"content": "</s>"}},
    )
    loaded = TextModel.load(folder)
    yield loaded
    loaded.close()


def test_the_context_and_the_vocabulary_are_those_of_the_configuration(model):
    assert (model.context_tokens, model.vocabulary_tokens) == (64, 300)


def test_the_end_tokens_are_those_of_the_generation_configuration_and_the_tokenizers_own(model):
    assert model.eos_ids == {5, 0}


def test_without_a_generation_configuration_the_model_configuration_names_the_end_token(tmp_path):
    folder = write_model(tmp_path, byte_level(), config={"text_config": {"eos_token_id": 9}})

    assert load(folder).eos_ids == {9}


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("[]")

    with pytest.raises(ConfigurationError, match=r"tokenizer\.json cannot be read: invalid type"):
        TextModel.load(tmp_path)


def test_a_template_renders_messages_up_to_where_the_answer_begins(model):
    text = model.render([{"role": "user", "content": "<b>&"}], {})

    assert text == "<s>user:<b>&>"


async def test_a_chat_gets_the_special_tokens_of_its_template_only(model):
    prompt = ChatPrompt(messages=({"role": "user", "content": "x"},), template_kwargs={})

    ids = await model.encode_prompt(prompt)

    assert ids.count(1) == 1


async def test_plain_text_gets_the_special_tokens_of_the_tokenizer(model):
    ids = await model.encode_prompt(TextPrompt(text="x"))

    assert ids[0] == 1
    assert len(ids) == 2


async def test_ids_stay_as_they_are(model):
    assert await model.encode_prompt(TokenPrompt(ids=(3, 299))) == [3, 299]


async def test_an_id_beyond_the_vocabulary_is_refused_by_its_place_and_bound(model):
    with pytest.raises(
        InvalidRequestError, match=r"prompt\[1\] must be a token id from 0 to 299, got 300"
    ) as raised:
        await model.encode_prompt(TokenPrompt(ids=(3, 300)))

    assert raised.value.param == "prompt[1]"


async def test_a_prompt_without_tokens_is_refused(tmp_path):
    model = load(write_model(tmp_path, sentencepiece()))

    with pytest.raises(InvalidRequestError, match="prompt must give at least one token"):
        await model.encode_prompt(TextPrompt(text=""))


async def test_text_is_tokenised_whole_whatever_the_file_says_about_truncation_and_padding(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    model = load(write_model(tmp_path, tokenizer))

    assert len(await model.encode("abcd", add_special_tokens=False)) == 4


def test_a_special_token_has_a_name(model):
    assert model.token_bytes(0) == b"</s>"


def test_an_added_token_that_the_byte_alphabet_cannot_write_is_its_own_text(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_tokens(["é \u2028"])
    model = load(write_model(tmp_path, tokenizer))

    assert model.token_bytes(tokenizer.token_to_id("é \u2028")).decode() == "é \u2028"


def test_an_unknown_id_has_no_bytes(model):
    assert model.token_bytes(299) == b""


def test_a_model_without_a_template_says_which_route_to_use(tmp_path):
    model = load(write_model(tmp_path, byte_level()))

    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        model.render([{"role": "user", "content": "x"}], {})


def test_a_template_that_refuses_gives_its_own_words(tmp_path):
    template = "{{ raise_exception('roles must alternate') }}"
    model = load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": template}))

    with pytest.raises(InvalidRequestError, match="roles must alternate") as raised:
        model.render([], {})

    assert raised.value.param == "messages"


def test_a_template_that_stumbles_over_the_messages_is_the_requests_fault(tmp_path):
    template = "{{ 'x' + messages[0]['content'] }}"
    model = load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": template}))

    with pytest.raises(InvalidRequestError, match="TypeError"):
        model.render([{"role": "user", "content": 5}], {})


def test_a_template_cannot_reach_python(tmp_path):
    template = "{{ messages.__class__.__mro__ }}"
    model = load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": template}))

    with pytest.raises(InvalidRequestError, match="unsafe"):
        model.render([], {})


def test_a_template_finds_what_transformers_gives_it(tmp_path):
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ bos_token }}{{ m | tojson }}"
        "{% generation %}!{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ enable_thinking }}"
    )
    config = {"chat_template": [{"name": "default", "template": template}], "bos_token": "<s>"}
    model = load(write_model(tmp_path, byte_level(), tokenizer_config=config))

    assert model.render([{"content": "<é"}, {}], {}) == '<s>{"content": "<é"}!4False'


def test_the_template_file_wins_over_the_configuration_and_a_request_over_both(tmp_path):
    write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("{{ enable_thinking }}")

    assert load(tmp_path).render([], {"enable_thinking": "yes"}) == "yes"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "must hold a JSON object"),
        ("chat_template.jinja", "{% if %}", "template is broken"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, complaint):
    write_model(tmp_path, byte_level())
    (tmp_path / name).write_text(content)

    with pytest.raises(ConfigurationError, match=complaint):
        TextModel.load(tmp_path)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no tokenizer\.json"):
        TextModel.load(tmp_path)


@pytest.mark.parametrize(("decoder", "named"), [(decoders.WordPiece(), "WordPiece"), (None, "none")])
def test_a_decoder_that_cannot_be_streamed_is_refused(tmp_path, decoder, named):
    tokenizer = byte_level()
    tokenizer.decoder = decoder

    with pytest.raises(ConfigurationError, match=named):
        TextModel.load(write_model(tmp_path, tokenizer))


def test_a_sentencepiece_model_drops_the_space_that_it_put_in_front(tmp_path):
    model = load(write_model(tmp_path, sentencepiece()))

    assert model.drops_leading_space
    assert [model.token_bytes(i) for i in (0xE4, 256, 258)] == [b"\xe4", b" ", b" a"]


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt(text="ab"),
        TokenPrompt(ids=(5, 6)),
        ChatPrompt(messages=({"role": "user"},), template_kwargs={}),
    ],
)
async def test_a_prompt_is_tokenised_once_for_all_the_choices_that_share_it(tmp_path, prompt):
    model = load(write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": CHATML}))

    assert await model.encode_prompt(prompt) is await model.encode_prompt(prompt)


async def test_a_text_that_must_give_too_many_tokens_is_refused_unread(model):
    longest = max(len(model.token_bytes(token)) for token in range(model.vocabulary_tokens))

    with pytest.raises(InvalidRequestError) as refusal:
        await model.encode_prompt(TextPrompt(text="a" * (10 * longest + 1)), most_tokens=10)

    assert (refusal.value.param, refusal.value.code) == ("prompt", "context_length_exceeded")


async def test_a_text_that_may_fit_is_tokenised_and_refused_with_its_tokens_where_it_does_not(model):
    assert len(await model.encode_prompt(TextPrompt(text="a" * 9), most_tokens=10)) == 10
    with pytest.raises(InvalidRequestError, match="prompt has 12 tokens"):
        await model.encode_prompt(TextPrompt(text="a" * 11), most_tokens=10)
