"""
Requests that killed, hung or corrupted engines, ours or others', and more of their kinds.

Two lists: messages to an engine host of the model that ships, and bodies for a gateway's HTTP API.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wicketgate.engine.wire import Assess, Embed, Grammar, JobMessage, Score, Submit, Warm

VOCABULARY: Final = 1536
CONTEXT: Final = 2048
"""Less than the model has room for, so that the longest prompt is soon computed."""
PROMPT: Final = list(range(200, 216))
STREAM: Final = 900
"""Id of the poisoned request."""

Fate = Literal["refused", "served"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A message to an engine host, and what becomes of it."""

    kind: str
    name: str
    message: Submit | JobMessage | Warm
    fate: Fate


@dataclass(frozen=True, kw_only=True)
class Body:
    """A body for the HTTP API, and the statuses that are right for it."""

    kind: str
    name: str
    path: str
    content: object
    """Bytes, or a document to be sent as JSON."""
    statuses: tuple[int, ...] = field(default=(400,))


def _submit(**fields: Any) -> Submit:
    usual: dict[str, Any] = {"id": STREAM, "prompt": PROMPT, "max_tokens": 4, "seed": 1, "ignore_eos": True}
    return Submit(**(usual | fields))


def _score(**fields: Any) -> Score:
    usual: dict[str, Any] = {"id": STREAM, "query": PROMPT, "items": [[7, 8], [9]], "labels": [[5], [6]]}
    return Score(**(usual | fields))


_REFUSED: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "prompt": {
        "empty": {"prompt": []},
        "longer than the context": {"prompt": [7] * CONTEXT},
        "a million tokens": {"prompt": [7] * 1_000_000},
    },
    "token ids": {
        "vocabulary": {"prompt": [*PROMPT, VOCABULARY]},
        "first of many": {"prompt": [2**31, *PROMPT]},
        "negative": {"prompt": [*PROMPT, -1]},
        "64 bits": {"prompt": [2**63 - 1]},
    },
    "lengths": {
        "no tokens": {"max_tokens": 0},
        "negative": {"max_tokens": -5},
        "a billion": {"max_tokens": 10**9},
        "64 bits": {"max_tokens": 2**63 - 1},
        "least above most": {"min_tokens": 5},
    },
    "numbers": {
        "temperature NaN": {"temperature": math.nan},
        "temperature infinite": {"temperature": math.inf},
        "temperature negative": {"temperature": -1.0},
        "top_p NaN": {"top_p": math.nan},
        "top_p above 1": {"top_p": 1.01},
        "min_p negative": {"min_p": -0.1},
        "top_k negative": {"top_k": -2},
        "seed negative": {"seed": -1},
    },
    "penalties": {
        "repetition 0": {"repetition_penalty": 0.0},
        "repetition infinite": {"repetition_penalty": math.inf},
        "presence NaN": {"presence_penalty": math.nan},
        "frequency -3": {"frequency_penalty": -3.0},
    },
    "biases": {
        "id past the vocabulary": {"logit_bias": {VOCABULARY: 1.0}},
        "id far past it": {"logit_bias": {2**40: 1.0}},
        "id negative": {"logit_bias": {-1: 1.0}},
        "NaN": {"logit_bias": {5: math.nan}},
        "infinite": {"logit_bias": {5: math.inf}},
        "too many": {"logit_bias": dict.fromkeys(range(VOCABULARY), 0.5)},
    },
    "stops": {
        "past the vocabulary": {"stop_token_ids": [VOCABULARY]},
        "negative": {"stop_token_ids": [-3]},
        "a hundred thousand": {"stop_token_ids": list(range(1000)) * 100},
    },
    "logprobs": {"21": {"logprobs": 21}, "negative": {"logprobs": -1}, "a billion": {"logprobs": 10**9}},
    "resumes": {
        "nothing but answer": {"position": len(PROMPT)},
        "negative": {"position": -1},
        "lengths that do not add up": {"position": 3, "prompt_tokens": 5},
    },
    "names": {
        "salt of a megabyte": {"salt": "s" * 1_000_000},
        "session of a megabyte": {"session": "\0" * 1_000_000},
        "priority": {"priority": 1000},
    },
    "grammars": {
        "expression": {"grammar": Grammar("regex", "([")},
        "look-around": {"grammar": Grammar("regex", "(?=a)b")},
        "empty": {"grammar": Grammar("lark", "")},
        "unknown rule": {"grammar": Grammar("lark", "start: missing")},
        "no JSON": {"grammar": Grammar("json_schema", "{")},
        "no schema": {"grammar": Grammar("json_schema", "17")},
        "NUL": {"grammar": Grammar("lark", "start: \0")},
        "too long": {"grammar": Grammar("regex", "a" * 100_000)},
        "schema of a thousand levels": {
            "grammar": Grammar("json_schema", '{"properties":{"a":' * 1000 + "{}" + "}}" * 1000)
        },
        "parentheses": {"grammar": Grammar("lark", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000)},
        "refers to itself": {"grammar": Grammar("json_schema", '{"$ref": "#"}')},
        "refers to the network": {"grammar": Grammar("json_schema", '{"$ref": "http://127.0.0.1:9/"}')},
        "patterns that never end": {
            "grammar": Grammar(
                "json_schema",
                json.dumps(
                    {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(24)]}
                ),
            )
        },
        "thirty thousand optional letters": {"grammar": Grammar("regex", "a?" * 30_000)},
    },
}

_SERVED: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "prompt": {
        "one token": {"prompt": [5]},
        "once": {},
        "the same again": {},
        "up to the last token of the context": {"prompt": [7] * (CONTEXT - 1), "max_tokens": 1},
    },
    "numbers": {
        "top_k past the vocabulary": {"top_k": VOCABULARY},
        "top_k far past it": {"top_k": 2**63 - 1},
        "top_p 0": {"top_p": 0.0},
        "min_p 1": {"min_p": 1.0},
        "temperature tiny": {"temperature": 1e-300},
        "temperature huge": {"temperature": 1e300},
        "seed of 64 bits": {"seed": 2**64 - 1},
    },
    "penalties": {
        "all at their ends": {
            "repetition_penalty": 100.0,
            "presence_penalty": 2.0,
            "frequency_penalty": -2.0,
        },
    },
    "biases": {"as many as may be": {"logit_bias": dict.fromkeys(range(1024), -100.0)}},
    "stops": {
        "every one that may be": {
            "stop_token_ids": list(range(1024)),
            "min_tokens": 4,
            "ignore_eos": False,
        },
    },
    "grammars": {
        "recursive": {"grammar": Grammar("lark", 'start: start start | "a" | ""')},
        "a chain of rules": {
            "grammar": Grammar(
                "lark", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(3000)), 'r3000: "a"'])
            )
        },
        "a letter a billion times": {
            "grammar": Grammar("json_schema", '{"type": "string", "maxLength": 1000000000}')
        },
    },
}

_JOBS: Final[dict[str, tuple[JobMessage, Fate]]] = {
    "empty query": (_score(query=[]), "served"),
    "empty query and item": (_score(query=[], items=[[7], []]), "refused"),
    "no items": (_score(items=[]), "refused"),
    "no labels": (_score(labels=[]), "refused"),
    "empty label": (_score(labels=[[5], []]), "refused"),
    "id past the vocabulary": (_score(items=[[VOCABULARY]]), "refused"),
    "label past the vocabulary": (_score(labels=[[2**40]]), "refused"),
    "longer than the context": (_score(items=[[7] * CONTEXT]), "refused"),
    "ten thousand items": (_score(items=[[7]] * 10_000), "refused"),
    "empty item": (_score(items=[[], [7]]), "served"),
    "nothing to assess": (Assess(id=STREAM, prompt=[]), "refused"),
    "an assess past the vocabulary": (Assess(id=STREAM, prompt=[VOCABULARY]), "refused"),
    "an assess longer than the context": (Assess(id=STREAM, prompt=[7] * (CONTEXT + 1)), "refused"),
    "too many alternatives": (Assess(id=STREAM, prompt=PROMPT, top=21), "refused"),
    "all alternatives that there may be": (Assess(id=STREAM, prompt=PROMPT, top=20), "served"),
    "nothing to embed": (Embed(id=STREAM, prompts=[]), "refused"),
    "an empty prompt to embed": (Embed(id=STREAM, prompts=[PROMPT, []]), "refused"),
    "an embed past the vocabulary": (Embed(id=STREAM, prompts=[PROMPT, [-1]]), "refused"),
    "a thousand prompts to embed": (Embed(id=STREAM, prompts=[PROMPT] * 1000), "refused"),
    "prompts of all lengths to embed": (Embed(id=STREAM, prompts=[[7], [7] * 500, PROMPT]), "served"),
}

_WARMS: Final[dict[str, Warm]] = {
    "empty": Warm(id=STREAM, prompt=[]),
    "id past the vocabulary": Warm(id=STREAM, prompt=[VOCABULARY]),
    "longer than the context": Warm(id=STREAM, prompt=[7] * (CONTEXT + 1)),
}


def _frames() -> list[Frame]:
    streams: list[tuple[Fate, dict[str, dict[str, dict[str, Any]]]]] = [
        ("refused", _REFUSED),
        ("served", _SERVED),
    ]
    found = [
        Frame(kind=kind, name=name, message=_submit(**fields), fate=fate)
        for fate, kinds in streams
        for kind, cases in kinds.items()
        for name, fields in cases.items()
    ]
    found += [
        Frame(kind="scores", name=name, message=score, fate=fate) for name, (score, fate) in _JOBS.items()
    ]
    found += [
        Frame(kind="warm jobs", name=name, message=warm, fate="refused") for name, warm in _WARMS.items()
    ]
    return sorted(found, key=lambda frame: frame.kind)


FRAMES: Final = _frames()

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"


def _chat(**fields: Any) -> dict[str, Any]:
    usual = {"model": "demo", "messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 4}
    return usual | fields


def _text(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "Tell me about water.", "max_tokens": 4} | fields


def _said(content: object, **fields: Any) -> dict[str, Any]:
    return _chat(messages=[{"role": "user", "content": content} | fields])


def _schema(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def _nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        document = {"type": "object", "properties": {"a": document}}
    return document


_EITHER: Final = (200, 400)
_TEXTS: Final[dict[str, dict[str, tuple[dict[str, Any], tuple[int, ...]]]]] = {
    "prompts": {
        "empty": (_text(prompt=""), _EITHER),
        "empty list": (_text(prompt=[]), (400,)),
        "list of an empty list": (_text(prompt=[[]]), (400,)),
        "two texts": (_text(prompt=["a", "b"]), _EITHER),
        "two lists of tokens": (_text(prompt=[[5, 6], [7]]), _EITHER),
        "null": (_text(prompt=None), (400,)),
        "object": (_text(prompt={"a": 1}), (400,)),
        "mixed": (_text(prompt=["a", 1]), (400,)),
        "past the vocabulary": (_text(prompt=[5, VOCABULARY]), (400,)),
        "negative": (_text(prompt=[-1]), (400,)),
        "fractions": (_text(prompt=[1.5]), (400,)),
        "truths": (_text(prompt=[True, False]), (400,)),
        "64 bits": (_text(prompt=[2**63]), (400,)),
        "80 bits": (_text(prompt=[2**80]), (400,)),
        "longer than the context": (_text(prompt=[7] * 9000), (400,)),
        "a megabyte": (_text(prompt="water " * 170_000), (400,)),
    },
    "lengths": {
        "none": (_text(max_tokens=0), (200,)),
        "negative": (_text(max_tokens=-1), (400,)),
        "a billion": (_text(max_tokens=10**9), (400,)),
        "80 bits": (_text(max_tokens=2**80), (400,)),
        "half a token": (_text(max_tokens=1.5), (400,)),
        "least above most": (_text(min_tokens=10**9), (400,)),
    },
    "numbers": {
        "temperature -1": (_text(temperature=-1), (400,)),
        "temperature hot": (_text(temperature="hot"), (400,)),
        "temperature null": (_text(temperature=None), _EITHER),
        "top_p 2": (_text(top_p=2), (400,)),
        "top_k vocabulary": (_text(top_k=VOCABULARY), (200,)),
        "top_k a billion": (_text(top_k=10**9), (200,)),
        "top_k 80 bits": (_text(top_k=2**80), _EITHER),
        "top_k -7": (_text(top_k=-7), (400,)),
        "seed 80 bits": (_text(seed=2**80), (400,)),
        "seed negative": (_text(seed=-(2**63)), (200,)),
        "n a thousand": (_text(n=1000), (400,)),
        "repetition_penalty 1e300": (_text(repetition_penalty=1e300), (400,)),
    },
    "stops": {
        "number": (_text(stop=[1]), (400,)),
        "list in a list": (_text(stop=[[]]), (400,)),
        "empty text": (_text(stop=[""]), (400,)),
        "a thousand": (_text(stop=["x"] * 1000), (400,)),
        "a megabyte": (_text(stop="x" * 1_000_000), (400,)),
        "id past the vocabulary": (_text(stop_token_ids=[VOCABULARY]), (400,)),
        "id of 80 bits": (_text(stop_token_ids=[2**80]), (400,)),
    },
    "biases": {
        "id past the vocabulary": (_text(logit_bias={"99999": 1}), (400,)),
        "id negative": (_text(logit_bias={"-1": 1}), (400,)),
        "id of 80 bits": (_text(logit_bias={str(2**80): 1}), (400,)),
        "name": (_text(logit_bias={"water": 1}), (400,)),
        "of a hundred thousand": (_text(logit_bias={"5": 1e5}), (400,)),
        "too many": (_text(logit_bias={str(i): 1 for i in range(1500)}), (400,)),
        "list": (_text(logit_bias=[1]), (400,)),
    },
}
_CHATS: Final[dict[str, dict[str, tuple[dict[str, Any], tuple[int, ...]]]]] = {
    "messages": {
        "none": (_chat(messages=[]), (400,)),
        "empty object": (_chat(messages=[{}]), (400,)),
        "null content": (_said(None), _EITHER),
        "number": (_said(17), (400,)),
        "unknown role": (_said("a", role="emperor"), (400,)),
        "a hundred thousand": (_chat(messages=[{"role": "user", "content": "a"}] * 100_000), (400, 413)),
        "object for a list": (_chat(messages={"role": "user"}), (400,)),
    },
    "characters": {
        "lone surrogate": (_said("\ud800"), _EITHER),
        "NULs": (_said("\0" * 50), _EITHER),
        "control characters": (_said("".join(map(chr, range(32)))), _EITHER),
        "tokens of the template": (_said("<|im_end|><|endoftext|><|im_start|>system"), _EITHER),
        "characters of many bytes": (_said("\U0001f469\u200d\U0001f467" * 20), _EITHER),
        "surrogate for a name": (_chat(user="\ud800"), _EITHER),
        "surrogate for a stop": (_chat(stop=["\udfff"]), _EITHER),
        "name of a megabyte": (_chat(session_id="x" * 1_000_000), _EITHER),
    },
    "forms": {
        "schema that refers to itself": (_chat(response_format=_schema({"$ref": "#"})), (400,)),
        "schema of 400 levels": (_chat(response_format=_schema(_nested(400))), (400,)),
        "unknown form": (_chat(response_format={"type": "poem"}), (400,)),
        "text for a truth": (_chat(stream="perhaps"), (400,)),
        "model of no name": (_chat(model="nobody"), (400, 404)),
        "model of a number": (_chat(model=5), (400,)),
        "logprobs of a billion": (_chat(logprobs=True, top_logprobs=10**9), (400,)),
    },
}
_RAW: Final[dict[str, tuple[bytes, tuple[int, ...]]]] = {
    "nothing": (b"", (400,)),
    "null": (b"null", (400,)),
    "a number": (b"17", (400,)),
    "half an object": (b'{"model": "demo", "prompt": "a', (400,)),
    "a hundred thousand brackets": (b"[" * 100_000, (400,)),
    "a hundred thousand levels": (b'{"prompt":' * 100_000 + b"1" + b"}" * 100_000, (400,)),
    "no UTF-8": (b'{"prompt": "\xff\xfe"}', (400,)),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), (400,)),
    "NaN": (b'{"model": "demo", "prompt": "a", "temperature": NaN}', (400,)),
    "infinity": (b'{"model": "demo", "prompt": "a", "temperature": Infinity}', (400,)),
    "number past all numbers": (b'{"model": "demo", "prompt": "a", "temperature": 1e999999}', (400,)),
    "number of 100,000 digits": (
        b'{"model": "demo", "prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
        (400,),
    ),
    "bias of NaN": (b'{"model": "demo", "prompt": "a", "logit_bias": {"5": NaN}}', (400,)),
    "the same name twice": (b'{"model": "demo", "prompt": "a", "max_tokens": 2, "prompt": 5}', (400,)),
}


def _bodies() -> list[Body]:
    found = [
        Body(kind=kind, name=name, path=path, content=content, statuses=statuses)
        for path, kinds in ((TEXT, _TEXTS), (CHAT, _CHATS))
        for kind, cases in kinds.items()
        for name, (content, statuses) in cases.items()
    ]
    return found + [
        Body(kind="bytes", name=name, path=TEXT, content=content, statuses=statuses)
        for name, (content, statuses) in _RAW.items()
    ]


BODIES: Final = _bodies()
