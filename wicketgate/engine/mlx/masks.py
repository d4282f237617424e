"""
What grammars allow their rows to say next, computed by a process beside the engine host.

Theory of operation. A grammar is compiled when its request is opened, and the host waits for that, so that a
bad one is refused with its reason. From then on each step's tokens are sent together once they are read, and
the process computes what they lead to while the device is busy with the forward pass. It answers in order.
When it dies, what it was working on is the culprit: that row alone ends, and the others are opened again in a
new process with all that was emitted under them.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from typing import TYPE_CHECKING, Final

import numpy as np

from wicketgate.engine.batch import RowError
from wicketgate.engine.mlx.mask_line import COMMAND, UNAVAILABLE, MaskLine, MaskProcessError
from wicketgate.engine.mlx.mask_wire import Consume, Open, State, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from wicketgate.engine.wire import Grammar

log = logging.getLogger(__name__)

MAX_CULPRITS: Final = 256
"""Grammars that ended a process and are refused at once when they come again; the oldest is forgotten."""
MAX_FAULTS: Final = 2
"""A row that was worked on at more ends of the process by somebody else's hand is given up."""


class Mask:
    """One row's place in its grammar. Nothing here raises."""

    def __init__(self, grammars: Grammars, key: int, grammar: Grammar, tokens: Sequence[int]) -> None:
        self._grammars = grammars
        self.key = key
        self.grammar = grammar
        self._is_waiting = grammar.starts_after is not None
        """For the token that it starts after."""
        self.tokens: list[int] = []
        """What was emitted under it."""
        for token in tokens:
            self._takes(token)
        self.state = State()
        """After the last token that was answered."""
        self.faults = 0
        """Ends of the process, by somebody else's hand, at which it waited for an answer."""

    def advance(self, token: int) -> None:
        """Take in the row's last token; what it leads to is computed once anybody asks, for all rows."""
        if self._takes(token) and not self.has_ended:
            self._grammars.consume(self, token)

    def _takes(self, token: int) -> bool:
        """Note a token; returns whether it is one under the grammar."""
        if self._is_waiting:
            self._is_waiting = token != self.grammar.starts_after
            return False
        self.tokens.append(token)
        return True

    @property
    def has_ended(self) -> bool:
        """Whether it is known that there is no next token."""
        return self.state.is_over or bool(self.state.error)

    @property
    def ending(self) -> str | None:
        """How the tokens so far end the row: stop, where the grammar is complete, error, or not at all."""
        self._grammars.settle(self)
        if self.state.error:
            return "error"
        return "stop" if self.state.is_over and not self._is_waiting else None

    def allowed(self, *, barred: Iterable[int] = ()) -> npt.NDArray[np.uint32]:
        """
        Return what may come next.

        Args:
            barred: Tokens to leave out, unless nothing else is allowed.

        Returns:
            (ceil(vocabulary / 32),) words of a bit per token id, the lowest first; all bits where the grammar
            does not hold yet, and where the row has ended, so that something can be drawn and thrown away.
        """
        self._grammars.settle(self)
        if self._is_waiting or self.has_ended:
            words = np.full(self._grammars.words, 0xFFFFFFFF, dtype=np.uint32)
        else:
            words = np.frombuffer(self.state.words, dtype="<u4").astype(np.uint32)
        rest = words.copy()
        for token in barred:
            rest[token // 32] &= ~np.uint32(1 << token % 32)
        return rest if rest.any() else words


class Grammars:
    """
    The grammars of one model's rows, and the process that computes them, started when the first one comes.

    Args:
        model: Folder with the model's tokenizer.json.
        vocabulary_size: Token ids of the model.
        eos_token_ids: Its end tokens.
        command: What runs the process; its arguments are added.
    """

    def __init__(
        self,
        model: Path,
        *,
        vocabulary_size: int,
        eos_token_ids: Iterable[int],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._vocabulary = Vocabulary(
            tokenizer=str(model / "tokenizer.json"),
            size=vocabulary_size,
            eos_token_ids=sorted(token for token in eos_token_ids if token < vocabulary_size),
        )
        self.words = -(-vocabulary_size // 32)
        """How many words of 32 bits a mask has."""
        self._command = tuple(command)
        self._keys = itertools.count(1)
        self._line: MaskLine[Mask] | None = None
        self._open: weakref.WeakValueDictionary[int, Mask] = weakref.WeakValueDictionary()
        self._culprits: dict[Grammar, str] = {}

    def start(self) -> None:
        """Begin to start the process, so that the first grammar does not wait for it."""
        if self._line is None:
            try:
                self._line = MaskLine(self._command, self._vocabulary)
            except MaskProcessError as error:
                log.warning("mask_process_not_started", extra={"reason": str(error)})

    def open(self, stream: int, grammar: Grammar, tokens: Sequence[int]) -> Mask:
        """
        Compile a grammar and take in what was emitted under it.

        Takes 1 to 70 ms once the process runs, and at most `mask_line.ANSWER_S`.

        Raises:
            RowError: it is no grammar, or costs too much, or what was emitted is not of it.
        """
        reason = self._culprits.get(grammar)
        if reason is not None:
            raise RowError(stream, f"grammar: {reason}")
        mask = Mask(self, next(self._keys), grammar, tokens)
        self._send_open(mask)
        self.settle(mask)
        if mask.state.error:
            raise RowError(stream, f"grammar: {mask.state.error}")
        self._open[mask.key] = mask
        weakref.finalize(mask, self._forget, mask.key)
        return mask

    def consume(self, mask: Mask, token: int) -> None:
        """Have a token taken in, without waiting for what it leads to."""
        if self._line is None:
            mask.state = State(error=UNAVAILABLE)
        else:
            self._line.send(mask, Consume(mask.key, token))

    def settle(self, mask: Mask) -> None:
        """Wait until all that was sent for this mask is answered."""
        while self._line is not None and self._line.owes(mask):
            try:
                for answered, state in self._line.receive():
                    answered.state = state
            except MaskProcessError as error:
                self._recover(error)

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _send_open(self, mask: Mask) -> None:
        self.start()
        if self._line is None:
            mask.state = State(error=UNAVAILABLE)
        elif not self._line.owes(mask):
            self._line.send(mask, Open(mask.key, mask.grammar, mask.tokens))

    def _forget(self, key: int) -> None:
        if self._line is not None:
            self._line.forget(key)

    def _recover(self, error: MaskProcessError) -> None:
        """End the rows that the process failed on, and open the others again in a new one."""
        line, self._line = self._line, None
        if line is None:
            return
        waiting = line.owed
        line.close()
        log.warning("mask_process_lost", extra={"reason": str(error), "open": len(self._open)})
        for mask in self._failed(waiting, error):
            mask.state = State(error=error.told)
        for mask in [*waiting, *self._open.values()]:
            if not mask.has_ended:
                self._send_open(mask)

    def _failed(self, waiting: Sequence[Mask], error: MaskProcessError) -> Sequence[Mask]:
        if not error.has_started:
            return waiting
        # The oldest is the one that the process was working on.
        culprits = waiting[:1]
        if error.is_verdict:
            self._culprits |= {mask.grammar: error.told for mask in culprits}
            while len(self._culprits) > MAX_CULPRITS:
                del self._culprits[next(iter(self._culprits))]
        if not error.is_outside:
            return culprits
        for mask in culprits:
            mask.faults += 1
        return [mask for mask in culprits if mask.faults > MAX_FAULTS]
