"""One request and what comes back, in the words that every part of the runtime shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.errors import WicketgateError


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer must look like."""

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""
    """The schema as JSON, the expression, or the grammar; empty for json_object."""
    starts_after: int | None = None
    """Token id after whose first appearance it holds (the end of reasoning); None: from the first token."""
    param: str | None = None
    """The request's field that asks for it, for errors; no part of what the engine is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. A seed makes the text repeatable alone or in any batch."""

    max_tokens: int
    """Most tokens to produce, at least 1."""
    seed: int
    """Unsigned 64-bit; token i is drawn with a key made of (seed, i)."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Nucleus mass, 0 to 1; 1 is off."""
    top_k: int = 0
    """Candidates kept; 0 is off."""
    min_p: float = 0.0
    """Least probability relative to the likeliest token, 0 to 1; 0 is off."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens seen in the last 20; 1 is off."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer holds; 0 is off."""
    frequency_penalty: float = 0.0
    """Taken from the logits of a token once for each time that the answer holds it; 0 is off."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit), each id once."""
    logprobs: int | None = None
    """Alternatives to report beside the chosen token, 0 to 20; None reports nothing."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the answer besides the model's own end tokens; not part of the text."""
    ignore_eos: bool = False
    """Go on past the model's end tokens until max_tokens."""
    min_tokens: int = 0
    """No end token is drawn before so many tokens of answer."""
    grammar: Grammar | None = None
    """None lets the answer be any text."""


@dataclass(slots=True)
class KnownTokens:
    """The tokens of a prompt, once they are known: the choices of one call share the prompt, and so them."""

    ids: list[int] | None = None
    """Nobody changes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """Messages that the model's chat template turns into text."""

    messages: tuple[Mapping[str, object], ...]
    """
    In OpenAI's form, whatever API they came by: role, content (text), and where there are any
    reasoning_content, tool_call_id, name, and tool_calls as {id, type, function: {name, arguments}} with the
    arguments as an object.
    """
    template_kwargs: Mapping[str, object]
    """Extra variables for the template."""
    tools: tuple[Mapping[str, object], ...] = ()
    """{type: function, function: {name, description, parameters}}, as templates want them."""
    continues: bool = False
    """The last message is the beginning of the answer; the answer goes on where it ends."""
    known: KnownTokens = field(default_factory=KnownTokens, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """Text to continue."""

    text: str
    known: KnownTokens = field(default_factory=KnownTokens, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """Token ids to continue."""

    ids: tuple[int, ...]
    known: KnownTokens = field(default_factory=KnownTokens, repr=False, compare=False)


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class CallSyntax(StrEnum):
    """How an answer may hold tool calls."""

    NONE = "none"
    """It holds none: all of it is text."""
    NATIVE = "native"
    """As the model's template taught it to write them, between its markers."""
    FORCED = "forced"
    """The whole answer is a JSON list of {"name", "parameters"}, held to it by a grammar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """What the text of an answer is to be read as."""

    calls: CallSyntax = CallSyntax.NONE
    tools: tuple[str, ...] = ()
    """Names that may be called; a call of another is text."""
    max_calls: int | None = None
    """1 where calls in parallel are not wanted."""
    is_raw: bool = False
    """Nothing is taken out as reasoning: completions of text."""
    skip_special_tokens: bool = True
    include_stop: bool = False
    """The stop text that ended the answer is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """What an API module made of a request body; frozen at arrival."""

    id: str
    """Ours, unguessable; also the header x-request-id."""
    model: str
    prompt: Prompt
    sampling: Sampling
    arrived_s: float
    """Monotonic time when the body was complete."""
    key: str
    """What flags are decided by: session, user, or the request's own id."""
    key_source: str
    """Where the key came from, for `rollout explain` and the fallback count."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; not part of it."""
    stream: bool = False
    api: str = "chat"
    """chat, completions, responses, messages, score or embeddings."""
    output: OutputForm = OutputForm()
    choice: int = 0
    """Which of several answers to one call of the API this is."""
    client: str | None = None
    """Id of the API key that made the request."""
    connection: str | None = None
    """Address and port of its connection, for features decided by connection."""
    priority: int = 0
    """Class of service: 0 is interactive; higher ones wait longer, and give way first."""
    salt: str = ""
    """KV is shared only between requests of the same salt."""
    session: str = ""
    """Names the conversation in reports of the prefix store; empty where the client names none."""


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token and of the best alternatives, natural logarithm, raw logits."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logprob), best first."""


class TokenChunk(msgspec.Struct, frozen=True):
    """Tokens of one stream that arrived since the last look, oldest first."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One per token when the request asked for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a stream; the last thing that it yields."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Tokens produced, an end token included, as OpenAI counts."""
    cached_tokens: int = 0
    """Prompt tokens whose KV existed already."""
    error: WicketgateError | None = None
    """Set when reason is ERROR."""
    reasoning_tokens: int = 0
    """Of `completion_tokens`, those of reasoning."""
    calls: int = 0
    """Tool calls that the answer holds."""
    stop: str | int | None = None
    """The stop text, or the id of the stop token named by the client, that ended it."""
