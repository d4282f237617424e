"""
Pins that tokens become the text that `decode()` of the library tokenizers gives, for public tokenizers.

The vectors are recorded by tests/vectors/detokenising.py. Where the bytes of ids are no UTF-8, `decode()` of
a SentencePiece tokenizer gives up a whole run of bytes; ours spoils only what is broken, so that it is not
asked there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wicketgate.pipeline.text_stream import Detokenizer
from wicketgate.pipeline.token_bytes import decoder_kind, token_bytes

FAMILIES = json.loads((Path(__file__).parents[1] / "vectors" / "detokenising.json").read_text())


def table(family: dict) -> dict[int, bytes]:
    kind, _ = decoder_kind(family["decoder"])
    shown = token_bytes(family["names"].values(), kind=kind)
    known = dict(zip(map(int, family["names"]), shown, strict=True))
    return {token: b"" if token in family["special"] else data for token, data in known.items()}


def is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "replace").encode() == data


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_ids_become_the_text_that_the_library_makes_of_them(name):
    family = FAMILIES[name]
    kind, drops_space = decoder_kind(family["decoder"])
    shown = table(family)
    compared = 0

    for case in family["cases"]:
        data = [shown[token] for token in case["ids"]]
        if kind == "spm" and not is_utf8(b"".join(data)):
            continue
        detokenizer = Detokenizer(drops_space=drops_space)
        text = "".join(map(detokenizer.feed, data)) + detokenizer.flush()
        assert text == case["text"], case["ids"]
        compared += 1

    assert compared > 0.8 * len(family["cases"])


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        ({"type": "ByteLevel"}, ("bytes", False)),
        ({"type": "Metaspace", "prepend_scheme": "always"}, ("spm", True)),
        ({"type": "Metaspace", "prepend_scheme": "never"}, ("spm", False)),
        ({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}, ("spm", False)),
        (
            {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "start": 1}]},
            ("spm", True),
        ),
        (
            {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "stop": 1}]},
            ("spm", False),
        ),
    ],
)
def test_the_kind_of_a_decoder_is_read_from_its_declaration(decoder, kind):
    assert decoder_kind(decoder) == kind


@pytest.mark.parametrize(("decoder", "named"), [(None, "none"), ({"type": "WordPiece"}, "WordPiece")])
def test_a_decoder_that_cannot_be_streamed_is_named(decoder, named):
    with pytest.raises(ValueError, match=named):
        decoder_kind(decoder)


def test_an_id_without_a_name_has_no_bytes():
    assert token_bytes([None, "<0xE4>", "\u2581a"], kind="spm") == [b"", b"\xe4", b" a"]
    assert token_bytes([None, "\u0120a", "\u4f60"], kind="bytes") == [b"", b" a", "\u4f60".encode()]
