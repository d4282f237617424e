"""
What ships as the demo model: sizes, configuration, hashes, template, tokenizer, text, and its lessons.

These tests read the shipped files themselves, since the files are the product; none of them loads the model.
"""

from __future__ import annotations

import hashlib
import json
import struct
from math import prod
from pathlib import Path

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

import wicketgate.demo
from wicketgate.demo import corpus, extract, folder

DEMO = Path(wicketgate.demo.__file__).parent
MODEL = DEMO / "model"
TEXT = DEMO / "text" / "python_topics.txt"


def read_json(name: str) -> dict:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def tensors() -> dict[str, dict]:
    with (MODEL / "model.safetensors").open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def topics() -> list[corpus.Topic]:
    return corpus.read_topics(TEXT.read_text(encoding="utf-8"))


def render(messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(read_json("tokenizer_config.json")["chat_template"])
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_everything_that_ships_fits_in_six_and_a_half_megabytes():
    shipped = [p for p in DEMO.rglob("*") if p.is_file() and "__pycache__" not in p.parts]

    assert sum(p.stat().st_size for p in shipped) <= 6_500_000
    assert (MODEL / "model.safetensors").stat().st_size <= 6_000_000


def test_the_text_is_at_most_one_megabyte_and_its_licence_lies_beside_it():
    licence = (TEXT.parent / "LICENSE").read_text(encoding="utf-8")

    assert 100_000 <= TEXT.stat().st_size <= 1_000_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
    assert "Copyright (c) 2001" in licence


def test_all_weights_are_float32():
    assert {entry["dtype"] for entry in tensors().values()} == {"F32"}


def test_the_model_has_1_3_to_1_5_million_parameters():
    parameters = sum(prod(entry["shape"]) for entry in tensors().values())

    assert 1_300_000 <= parameters <= 1_500_000


def test_the_weights_have_the_shapes_that_the_configuration_says():
    config = read_json("config.json")
    shapes = {name: entry["shape"] for name, entry in tensors().items()}

    attended = config["num_attention_heads"] * config["head_dim"]
    assert shapes["model.embed_tokens.weight"] == [config["vocab_size"], config["hidden_size"]]
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == [attended, config["hidden_size"]]
    assert sum(name.endswith("q_proj.weight") for name in shapes) == config["num_hidden_layers"]
    assert "lm_head.weight" not in shapes


def test_the_configuration_promises_a_qwen3_of_8192_positions_with_tied_embeddings():
    config = read_json("config.json")

    assert config["model_type"] == "qwen3"
    assert config["max_position_embeddings"] == 8192
    assert config["dtype"] == "float32"
    assert config["tie_word_embeddings"] is True


def test_both_end_tokens_end_an_answer_in_every_file(tokenizer: Tokenizer):
    ends = [tokenizer.token_to_id(corpus.TURN_END), tokenizer.token_to_id(corpus.DOCUMENT_END)]

    assert read_json("config.json")["eos_token_id"] == ends
    assert read_json("generation_config.json")["eos_token_id"] == ends
    assert read_json("tokenizer_config.json")["eos_token"] == corpus.TURN_END


def test_the_recorded_hashes_are_those_of_the_files():
    recorded = read_json("PROVENANCE.json")["sha256"]
    files = [TEXT, *(p for p in MODEL.iterdir() if p.name != "PROVENANCE.json")]

    assert recorded == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_record_says_how_the_weights_came_to_be():
    record = read_json("PROVENANCE.json")

    assert record["wall_s"] <= 600
    assert record["recipe"]["seed"] == 7
    assert record["tokens"] > 0
    assert 0 < record["loss"]["text_bits_per_byte"] < 8
    assert {"python", "mlx", "mlx-lm", "numpy", "tokenizers"} <= record["versions"].keys()


def test_the_template_renders_each_turn_and_opens_the_assistants():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {{ 1 + 1 }}\n"}]

    assert render(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi {{ 1 + 1 }}\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_opens_no_turn_unless_asked():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    rendered = render(messages, add_generation_prompt=False)

    assert rendered == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


def test_the_shipped_template_is_the_one_that_training_used():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]

    rendered = render(messages, add_generation_prompt=False)

    assert read_json("tokenizer_config.json")["chat_template"] == corpus.CHAT_TEMPLATE
    assert rendered == corpus.turn("system", "s") + corpus.turn("user", "u")


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        " leading and trailing  ",
        "tabs\tand\r\nline ends\n\n\n",
        "naïve café, Ærøskøbing",
        "中文 и русский עברית العربية",
        "🙂👩‍👩‍👧‍👦🇩🇰 1️⃣",
        "e\u0301 stays decomposed",
        "\x00\x01\x7f\u200b\ufeff\U0010ffff",
        "",
    ],
)
def test_the_tokenizer_gives_back_every_text_exactly(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_special_token_is_one_id_that_decoding_leaves_out(tokenizer: Tokenizer):
    encoded = tokenizer.encode("a<|im_end|> b<|endoftext|><|im_start|>")

    assert [tokenizer.token_to_id(name) for name in corpus.SPECIAL_TOKENS] == [0, 1, 2]
    assert sorted(i for i in encoded.ids if i <= 2) == [0, 1, 2]
    assert tokenizer.decode(encoded.ids) == "a b"


def test_the_vocabulary_fills_the_embedding_exactly(tokenizer: Tokenizer):
    assert tokenizer.get_vocab_size(with_added_tokens=True) == read_json("config.json")["vocab_size"]


def test_the_configuration_that_ships_is_the_one_in_the_code(tmp_path: Path):
    folder.write_configuration(tmp_path)

    for written in tmp_path.iterdir():
        assert written.read_bytes() == (MODEL / written.name).read_bytes()


def test_a_tokenizer_learned_from_a_little_text_puts_special_tokens_first_and_keeps_every_byte():
    learned = folder.train_tokenizer("water water water\n" * 5)

    assert learned.encode("water").tokens == ["water"]
    assert [learned.id_to_token(i) for i in range(3)] == list(corpus.SPECIAL_TOKENS)
    assert learned.decode(learned.encode("é 🌊").ids) == "é 🌊"


def test_the_record_leaves_out_its_own_hash(tmp_path: Path):
    for name in (folder.RECORD, "b.json", "a.json"):
        (tmp_path / name).write_bytes(b"")

    assert folder.hashes(tmp_path.iterdir()) == {
        "a.json": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "b.json": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }


def test_extraction_keeps_prose_once_and_unwraps_it():
    told = "A statement does something, and it does so\nwhen it is executed."
    topics = {
        "one": f'The "one"\n*********\n\n{told}\n\n   one_stmt ::= "one" expression\n\n   >>> one(1)\n',
        "two": f"{told}\n\n* Another paragraph says something else, which is not what the first said.\n",
        "three": told,
        "debugger": "The debugger has commands, many of them, and each has a paragraph.",
    }

    assert extract.prose(topics) == (
        "== one ==\n\nA statement does something, and it does so when it is executed.\n\n"
        "== two ==\n\nAnother paragraph says something else, which is not what the first said.\n"
    )


def test_extraction_writes_the_prose_of_this_interpreters_help(capsys: pytest.CaptureFixture[str]):
    from pydoc_data.topics import topics

    extract.main()

    assert capsys.readouterr().out == extract.prose(topics)


@pytest.mark.parametrize(
    "block",
    [
        "Too short to say much.",
        "no capital letter at the start of what is a sentence otherwise.",
        "This one never comes to its end and so it is not a sentence",
        "Grammar ::= has a rule that looks like prose but is not prose.",
        "Example >>> shows a prompt and so it is code and not prose at all.",
        "Code = {a[0]: b[1], c[2]: d[3]} + {e: f} | {g: h} & {i: j} ^ {k: l}.",
    ],
)
def test_extraction_drops_what_is_not_prose(block: str):
    assert not extract.is_prose(block)


def test_topics_are_cut_at_headings_and_sentence_ends():
    read = corpus.read_topics('== a-b ==\n\nOne is here. Two is "x.y" there.\n\nThree.\n\n== c ==\n\nFour.\n')

    assert read == [
        corpus.Topic(
            name="a b",
            text='One is here. Two is "x.y" there.\n\nThree.',
            sentences=("One is here.", 'Two is "x.y" there.', "Three."),
        ),
        corpus.Topic(name="c", text="Four.", sentences=("Four.",)),
    ]
    assert corpus.running_text(read).endswith("Three.<|endoftext|>Four.<|endoftext|>")


def test_a_text_without_headings_is_refused():
    with pytest.raises(ValueError, match="must open with a line"):
        corpus.read_topics("no heading")


def test_a_drawn_conversation_is_what_the_template_renders(topics: list[corpus.Topic]):
    rng = np.random.default_rng(11)

    for _ in range(50):
        text = "".join(segment.text for segment in corpus.conversation(topics, rng))
        turns = [t.split("<|im_end|>\n")[0].partition("\n") for t in text.split("<|im_start|>")[1:]]
        messages = [{"role": role, "content": content} for role, _, content in turns]

        assert render(messages, add_generation_prompt=False) == text
        assert messages[-1]["role"] == "assistant"


def test_only_answers_are_learned_and_each_is_a_few_whole_sentences(topics: list[corpus.Topic]):
    rng = np.random.default_rng(12)
    segments = [s for _ in range(50) for s in corpus.conversation(topics, rng)]

    for segment in segments:
        assert segment.is_learned == (not segment.text.startswith("<|im_start|>"))
    for answer in (s.text for s in segments if s.is_learned):
        said = answer.removesuffix("<|im_end|>\n")
        assert said.endswith(".")
        assert corpus.MIN_ANSWER_CHARS <= len(said) <= corpus.MAX_ANSWER_CHARS


def test_the_same_seed_draws_the_same_conversations(topics: list[corpus.Topic]):
    first, again = (corpus.conversation(topics, np.random.default_rng(13)) for _ in range(2))

    assert first == again
