"""What Responses and Messages share: fields inside fields, sampling, and tools that are not here (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from wicketgate.api.fields import MAX_ECHOED, validate
from wicketgate.api.requests import drawn_seed
from wicketgate.api.tools import MAX_TOOLS, NAME, plan_tools
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import CallSyntax, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from wicketgate.api.exchange import Headers
    from wicketgate.api.fields import WireModel
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.api.tools import Tool, ToolChoice, ToolPlan
    from wicketgate.inference import Grammar

    Body = TypeVar("Body", bound="WireModel")

MAX_ITEMS: Final = 10_000
"""Messages, and parts of all of them: they are read on the event loop, in 5 to 10 us each (Linux CPU)."""
MAX_LISTED_TOOLS: Final = 512
"""Functions and those that are not served here."""
MAX_DROPPED: Final = 32
"""So many dropped tools are named."""


def read_at(place: str, model: type[Body], value: object) -> Body:
    """
    Make a wire model of a value inside a body; errors name its place: input[0].role.

    Raises:
        InvalidRequestError: names the first field that is wrong.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place} must be an object", param=place, code="invalid_type")
    try:
        return validate(model, value)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{place}.{error.message}", param=f"{place}.{error.param}", code=error.code
        ) from None


def kind_at(place: str, value: object, *, default: str | None = None) -> str:
    """
    Return the `type` of an object inside a body.

    Raises:
        InvalidRequestError: it is no object, or its type no text.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place} must be an object", param=place, code="invalid_type")
    kind = value.get("type", default)
    if kind is None:
        raise missing(f"{place}.type")
    if not isinstance(kind, str):
        raise InvalidRequestError(
            f"{place}.type must be a string", param=f"{place}.type", code="invalid_type"
        )
    return kind


class PartCount:
    """Counts the parts of all messages of a body."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, place: str, count: int) -> None:
        """
        Count the parts at a place.

        Raises:
            InvalidRequestError: there are too many.
        """
        self._count += count
        if self._count > MAX_ITEMS:
            raise InvalidRequestError(
                f"{place} must not bring more than {MAX_ITEMS} parts into the request",
                param=place,
                code="array_above_max_length",
            )


def missing(param: str) -> InvalidRequestError:
    """Say that a field is required."""
    return InvalidRequestError(f"{param} is required", param=param, code="missing_required_parameter")


def empty(param: str) -> InvalidRequestError:
    """Say that a list must hold something."""
    return InvalidRequestError(f"{param} must not be empty", param=param, code="empty_array")


def wrong(param: str, wanted: str, got: object = None, *, code: str | None = None) -> InvalidRequestError:
    """Say what a field must be, and what it is where that is short."""
    echo = f", got {got!r}" if got is not None and len(repr(got)) <= MAX_ECHOED else ""
    return InvalidRequestError(f"{param} must be {wanted}{echo}", param=param, code=code)


def check_tools(names: Sequence[tuple[int, str]]) -> None:
    """
    Check the names of a request's functions.

    Args:
        names: (place in the request's list of tools, name).

    Raises:
        InvalidRequestError: one is no name, or stands twice, or there are too many.
    """
    if len(names) > MAX_TOOLS:
        raise InvalidRequestError(
            f"tools must have at most {MAX_TOOLS} functions, got {len(names)}",
            param="tools",
            code="array_above_max_length",
        )
    seen: set[str] = set()
    for index, name in names:
        if not NAME.match(name):
            raise wrong(f"tools[{index}].name", "1 to 64 of the characters a-z, A-Z, 0-9, _, . and -", name)
        if name in seen:
            raise wrong(f"tools[{index}].name", "another name than those before it", name)
        seen.add(name)


def dropped_header(names: Sequence[str]) -> Headers:
    """Name the tools of a request that are not served here; refusing them would lock coding clients out."""
    if not names:
        return ()
    listed = ", ".join(quote(name[:MAX_ECHOED], safe=":") for name in names[:MAX_DROPPED])
    return ((b"x-wicketgate-dropped-tools", listed.encode()),)


def draw(
    *,
    card: ModelCard,
    arrival: Arrival,
    max_tokens: int,
    grammar: Grammar | None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | None = None,
    logprobs: int | None = None,
) -> Sampling:
    """Return how the tokens of an answer are drawn."""
    return Sampling(
        max_tokens=max_tokens,
        seed=drawn_seed(seed, arrival=arrival),
        # A nucleus of no mass holds the likeliest token only; mlx-lm would take 0 as off.
        temperature=0.0 if top_p == 0 else temperature,
        top_p=1.0 if top_p == 0 else top_p,
        top_k=top_k if 0 < top_k < card.vocabulary_tokens else 0,
        min_p=min_p,
        logprobs=logprobs,
        grammar=grammar,
    )


def without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object's fields; one that is null counts as absent."""
    return {name: field for name, field in value.items() if field is not None}


def answer_grammar(plan: ToolPlan, wanted: Grammar | None) -> Grammar | None:
    """
    Return what an answer is held to: calls where they are forced, else the form that is wanted.

    Raises:
        InvalidRequestError: there is a form, and calls that the model may write in its own way.
    """
    if wanted is not None and plan.output.calls is CallSyntax.NATIVE:
        raise InvalidRequestError(
            f"{wanted.param} leaves no room for calls of tools; force or forbid them by tool_choice",
            param=wanted.param,
            code="invalid_parameter_combination",
        )
    return plan.grammar or wanted


def planned(
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    card: ModelCard,
    param: str,
    places: Sequence[int],
    max_tokens: int,
) -> ToolPlan:
    """
    Plan as `plan_tools`, for tools of which some were dropped.

    Args:
        places: Of the tools, in the request's list.

    Raises:
        InvalidRequestError: as for `plan_tools`.
    """
    try:
        return plan_tools(tools, choice, card=card, param=param, max_tokens=max_tokens)
    except InvalidRequestError as error:
        for index, place in enumerate(places):
            if error.param == param.format(index=index):
                there = param.format(index=place)
                message = error.message.replace(error.param, there, 1)
                raise InvalidRequestError(message, param=there, code=error.code) from None
        raise
