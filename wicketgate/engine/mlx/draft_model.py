"""A small model that drafts what a larger one will probably say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.utils import load_model

from wicketgate.engine.drafts import agreement
from wicketgate.engine.mlx.network import Network
from wicketgate.engine.mlx.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.mlx.sampling import RowState

CATCH_UP_TOKENS: Final = 512
"""Most tokens of a stream that are computed at once before the first draft."""


class DraftModelError(ValueError):
    """The draft model cannot draft for the model."""


@dataclass(slots=True)
class DraftCache:
    """What the draft model knows of one stream."""

    parts: list[Any] = field(default_factory=list)
    computed_tokens: int = 0
    """How many of the stream's tokens have KV."""
    guessed: list[int] = field(default_factory=list)
    """Tokens after those that have KV too, and were only drafted."""


def open_draft_model(folder: str, *, model_folder: str, vocabulary_size: int) -> DraftModel:
    """
    Load a draft model.

    Args:
        folder: Its local folder.
        model_folder: Of the model that it drafts for.
        vocabulary_size: Token ids of that model.

    Raises:
        DraftModelError: a token id does not mean the same in both, or its KV cannot be taken back.
    """
    mine, its = _vocabulary(folder), _vocabulary(model_folder)
    different = mine.items() ^ its.items()
    if different:
        token = min(token for token, _ in different)
        raise DraftModelError(
            f"draft_model must have the model's vocabulary, but {len(different)} entries differ: {token!r} is"
            f" {mine.get(token)} in {folder} and {its.get(token)} in {model_folder}"
        )
    model, config = load_model(Path(folder))
    network = Network(model)
    if not network.has_plain_cache:
        raise DraftModelError(f"draft_model must keep plain KV, which can be taken back; {folder} does not")
    text = config.get("text_config", config)
    return DraftModel(network, most_token_id=min(int(text["vocab_size"]), vocabulary_size) - 1)


def _vocabulary(folder: str) -> dict[str, int]:
    path = Path(folder) / "tokenizer.json"
    try:
        document = json.loads(path.read_bytes())
        tokens = document["model"]["vocab"]
        added = {each["content"]: each["id"] for each in document.get("added_tokens", [])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DraftModelError(f"draft_model needs the vocabularies of both, cannot read {path}") from error
    if isinstance(tokens, list):
        # Unigram tokenizers list (token, score) in the order of their ids.
        tokens = {token: index for index, (token, _) in enumerate(tokens)}
    return {**tokens, **added}


class DraftModel:
    """Drafts for one stream at a time."""

    def __init__(self, network: Network, *, most_token_id: int) -> None:
        self._network = network
        self._most_token_id = most_token_id
        """Vocabularies are padded to different sizes: what one of the two models lacks is not drafted."""

    def draft(
        self, known: DraftCache, tokens: Sequence[int], state: RowState, *, most_tokens: int
    ) -> list[int]:
        """
        Draft up to so many next tokens.

        It draws with the stream's own noise, and so agrees more often than by taking the likeliest. A stream
        that it does not know well enough yet gets nothing, and is known better the next time.

        Args:
            known: Of this stream; changed.
            tokens: The stream's, all of them.
            state: How it is sampled; stays as it is.
            most_tokens: At least 1.
        """
        self._go_back(known, tokens)
        rest = tokens[known.computed_tokens : known.computed_tokens + CATCH_UP_TOKENS]
        if max(rest) > self._most_token_id:
            return []
        known.computed_tokens += len(rest)
        if known.computed_tokens < len(tokens):
            self._network.extend(mx.array([rest]), known.parts)
            mx.eval([part.state for part in known.parts])
            return []
        known.guessed = self._guesses(known, mx.array([rest]), state, most_tokens)
        beyond = (at for at, token in enumerate(known.guessed) if token > self._most_token_id)
        return known.guessed[: next(beyond, most_tokens)]

    def _go_back(self, known: DraftCache, tokens: Sequence[int]) -> None:
        if not known.parts:
            known.parts = self._network.new_cache()
        # The last guess was never fed, and one token must be left to compute.
        fed = known.guessed[:-1]
        right = agreement(fed, tokens[known.computed_tokens : -1])
        for part in known.parts:
            part.trim(len(fed) - right)
        known.computed_tokens += right
        known.guessed = []

    def _guesses(self, known: DraftCache, feed: mx.array, state: RowState, most_tokens: int) -> list[int]:
        drawn = []
        for ahead in range(most_tokens):
            logits = self._network.last_logits(feed, known.parts)
            tokens = sample(logits, [_plain(state, ahead)]).tokens
            drawn.append(tokens)
            feed = tokens[:, None]
        guesses: Any = mx.concatenate(drawn).tolist()
        return list(guesses)


def _plain(state: RowState, ahead: int) -> RowState:
    return replace(
        state,
        position=state.position + ahead,
        bias={},
        min_tokens=0,
        alternatives=None,
        lineup=None,
        seat=0,
    )
