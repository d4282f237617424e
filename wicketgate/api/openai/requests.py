"""What the body of a chat or completion means: one InferenceRequest per choice (pure)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from wicketgate.api import schemas
from wicketgate.api.openai.bodies import AllowedChoice, NamedTool, unsupported
from wicketgate.api.openai.messages import template_messages
from wicketgate.api.requests import KEY_FIELDS, build_request, check_max_tokens, drawn_seed
from wicketgate.api.tools import Tool, ToolChoice, plan_tools
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import CallSyntax, ChatPrompt, OutputForm, Sampling, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.api.openai.bodies import ChatBody, CommonBody, CompletionBody
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.api.tools import ToolPlan
    from wicketgate.inference import Grammar, InferenceRequest, Prompt

DEFAULT_COMPLETION_TOKENS: Final = 16
"""What OpenAI gives to /v1/completions; a chat may use the rest of the context."""
MAX_CHOICES: Final = 128
"""Answers to one call, all prompts taken together."""
_SCHEMA_PARAM: Final = "response_format.json_schema.schema"


def chat_requests(body: ChatBody, *, card: ModelCard, arrival: Arrival) -> tuple[InferenceRequest, ...]:
    """
    Make the requests that a chat means, one per choice.

    Raises:
        InvalidRequestError: a bound of the model, what a message holds, or a form that cannot be enforced.
    """
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = body.max_completion_tokens or body.max_tokens or card.context_tokens
    check_max_tokens(max_tokens, param=param, card=card)
    answer = _answer_schema(body)
    plan = plan_tools(
        _tools(body),
        tool_choice(body),
        card=card,
        param="tools[{index}].function.parameters",
        max_tokens=max_tokens,
        answer=answer,
    )
    grammar = _grammar(body, plan, answer)
    prompt = ChatPrompt(
        messages=template_messages(body.messages),
        template_kwargs=_template_kwargs(body, card),
        tools=plan.prompt_tools,
    )
    logprobs = body.top_logprobs if body.logprobs else None
    sampling = _sampling(body, card=card, max_tokens=max_tokens, logprobs=logprobs, grammar=grammar)
    output = replace(
        plan.output,
        skip_special_tokens=body.skip_special_tokens,
        include_stop=body.include_stop_str_in_output,
    )
    return tuple(
        _request(
            body,
            arrival=arrival,
            card=card,
            prompt=prompt,
            sampling=replace(sampling, seed=drawn_seed(body.seed, arrival=arrival, sample=choice)),
            api="chat",
            output=output,
            choice=choice,
        )
        for choice in range(body.n)
    )


def _tools(body: ChatBody) -> list[Tool]:
    return [
        Tool(
            name=entry.function.name,
            description=entry.function.description,
            parameters=entry.function.parameters,
            strict=entry.function.strict,
        )
        for entry in body.tools
    ]


def completion_requests(
    body: CompletionBody, *, card: ModelCard, arrival: Arrival
) -> tuple[InferenceRequest, ...]:
    """
    Make the requests that a completion means: sample j of prompt i is number i * samples(body) + j.

    Of `max_tokens: 0`, which draws nothing, they say 1.

    Raises:
        InvalidRequestError: a bound of the model, or what the prompt is.
    """
    max_tokens = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    check_max_tokens(max_tokens, param="max_tokens", card=card)
    per_prompt = samples(body)
    prompts = _prompts(body.prompt, per_prompt=per_prompt, card=card)
    logprobs = body.logprobs
    if per_prompt > body.n and logprobs is None:
        logprobs = 0  # the best are found by them
    sampling = _sampling(body, card=card, max_tokens=max(max_tokens, 1), logprobs=logprobs, grammar=None)
    output = OutputForm(
        is_raw=True,
        skip_special_tokens=body.skip_special_tokens,
        include_stop=body.include_stop_str_in_output,
    )
    requests = []
    for choice in range(len(prompts) * per_prompt):
        index, sample = divmod(choice, per_prompt)
        # With a seed, a prompt is answered the same alone and among others.
        seed = drawn_seed(body.seed, arrival=arrival, sample=choice if body.seed is None else sample)
        requests.append(
            _request(
                body,
                arrival=arrival,
                card=card,
                prompt=prompts[index],
                sampling=replace(sampling, seed=seed),
                api="completions",
                output=output,
                choice=choice,
            )
        )
    return tuple(requests)


def samples(body: CompletionBody) -> int:
    """Return how many answers are drawn to each prompt; the best n of them are sent."""
    return body.best_of or body.n


def tool_choice(body: ChatBody) -> ToolChoice:
    """Return what a chat says about the calling of its tools."""
    parallel = body.parallel_tool_calls
    match body.tool_choice:
        case NamedTool(function=function):
            return ToolChoice(kind="named", name=function.name, parallel=parallel)
        case AllowedChoice(allowed_tools=allowed):
            names = tuple(tool.function.name for tool in allowed.tools)
            return ToolChoice(kind=allowed.mode, allowed=names, parallel=parallel)
        case word:
            return ToolChoice(kind=word or "auto", parallel=parallel)


def _answer_schema(body: ChatBody) -> schemas.Schema | None:
    """Return the checked schema of an answer; None where it may be any text."""
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise InvalidRequestError(f"{param} is required", param=param, code="missing_required_parameter")
    return schemas.checked(wanted.json_schema.schema_, strict=wanted.json_schema.strict, param=_SCHEMA_PARAM)


def _grammar(body: ChatBody, plan: ToolPlan, answer: schemas.Schema | None) -> Grammar | None:
    if plan.grammar is not None or answer is None:
        return plan.grammar
    if plan.output.calls is CallSyntax.NATIVE:
        raise InvalidRequestError(
            "response_format and calls of tools do not go together for this model, which writes calls in a"
            " form of its own; send tool_choice none or required",
            param="response_format",
            code="invalid_parameter_combination",
        )
    assert body.response_format is not None
    if body.response_format.type == "json_object":
        return schemas.json_object("response_format")
    return schemas.grammar(answer, param=_SCHEMA_PARAM)


def _template_kwargs(body: ChatBody, card: ModelCard) -> Mapping[str, object]:
    effort = body.reasoning_effort
    if effort is None or (effort == "none" and not card.thinks):
        return body.chat_template_kwargs
    if not card.thinks or (effort == "none" and not card.can_stop_thinking):
        raise unsupported("reasoning_effort")
    thinking = {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}
    return {**thinking, **body.chat_template_kwargs}


def _prompts(value: object, *, per_prompt: int, card: ModelCard) -> list[TextPrompt | TokenPrompt]:
    """Read prompts: text, a list of texts, ids, or a list of lists of ids."""
    if isinstance(value, str):
        return [TextPrompt(text=value)]
    if not isinstance(value, list):
        raise _wrong_prompt("prompt", "text, or a list of token ids")
    if not value:
        raise InvalidRequestError("prompt must not be empty", param="prompt", code="empty_array")
    wanted = type(value[0])
    if wanted is int:
        return [_ids(value, where="prompt", card=card)]
    if wanted not in {str, list}:
        raise _wrong_prompt("prompt[0]", "text or a token id")
    if len(value) * per_prompt > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompts times samples must be at most {MAX_CHOICES}, got {len(value)} * {per_prompt}",
            param="prompt",
            code="array_above_max_length",
        )
    for index, entry in enumerate(value):
        if type(entry) is not wanted:
            raise _wrong_prompt(f"prompt[{index}]", "of the type of prompt[0]")
    if wanted is str:
        return [TextPrompt(text=text) for text in value]
    return [_ids(ids, where=f"prompt[{index}]", card=card) for index, ids in enumerate(value)]


def _ids(value: list[Any], *, where: str, card: ModelCard) -> TokenPrompt:
    if not value:
        raise InvalidRequestError(f"{where} must not be empty", param=where, code="empty_array")
    if len(value) > card.context_tokens:
        raise InvalidRequestError(
            f"{where} has {len(value)} tokens; the model's context is {card.context_tokens}. Shorten it.",
            param=where,
            code="context_length_exceeded",
        )
    if set(map(type, value)) == {int} and min(value) >= 0:
        return TokenPrompt(ids=tuple(value))
    index = next(index for index, token in enumerate(value) if type(token) is not int or token < 0)
    param = f"{where}[{index}]"
    if type(value[index]) is not int:
        raise _wrong_prompt(param, "of the type of prompt[0]" if where == "prompt" else "an integer")
    raise InvalidRequestError(f"{param} must be a token id, at least 0, got {value[index]}", param=param)


def _wrong_prompt(param: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} must be {wanted}", param=param, code="invalid_type")


def _sampling(
    body: CommonBody, *, card: ModelCard, max_tokens: int, logprobs: int | None, grammar: Grammar | None
) -> Sampling:
    """Return how the tokens of all choices are drawn, but for the seed."""
    if body.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens must be at most max_tokens ({max_tokens}), got {body.min_tokens}", param="min_tokens"
        )
    for index, token in enumerate(body.stop_token_ids):
        if not 0 <= token < card.vocabulary_tokens:
            param = f"stop_token_ids[{index}]"
            bound = card.vocabulary_tokens - 1
            raise InvalidRequestError(f"{param} must be from 0 to {bound}, got {token}", param=param)
    return Sampling(
        max_tokens=max_tokens,
        seed=0,
        # A nucleus of no mass holds the likeliest token only; mlx-lm would take 0 as off.
        temperature=0.0 if body.top_p == 0 else body.temperature,
        top_p=1.0 if body.top_p == 0 else body.top_p,
        top_k=body.top_k if 0 < body.top_k < card.vocabulary_tokens else 0,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_biases(body.logit_bias, card=card),
        logprobs=logprobs,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
        grammar=grammar,
    )


def _biases(biases: Mapping[str, float], *, card: ModelCard) -> tuple[tuple[int, float], ...]:
    read = {}
    for name, bias in biases.items():
        param = f"logit_bias.{name[:20]}"
        token = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else card.vocabulary_tokens
        if token >= card.vocabulary_tokens:
            bound = card.vocabulary_tokens - 1
            raise InvalidRequestError(f"{param} must name a token id from 0 to {bound}", param=param)
        read[token] = bias
    return tuple(read.items())


def _request(
    body: CommonBody,
    *,
    arrival: Arrival,
    card: ModelCard,
    prompt: Prompt,
    sampling: Sampling,
    api: str,
    output: OutputForm,
    choice: int,
) -> InferenceRequest:
    return build_request(
        card=card,
        arrival=arrival,
        prompt=prompt,
        sampling=sampling,
        api=api,
        names={name: getattr(body, name) for name in KEY_FIELDS},
        stop=body.stop,
        stream=body.stream,
        priority=body.priority,
        cache_salt=body.cache_salt,
        output=output,
        choice=choice,
    )
