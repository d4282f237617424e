"""
The process that computes what grammars allow, started by an engine host.

A process of its own, because a small grammar can take llguidance minutes, gigabytes or the whole stack: in
1.9.1 twenty patterns under one `allOf` never end, and a chain of 3,000 rules overflows 8 MiB of stack. Here
that ends with this process, by the system's own means: a timer that counts the processor time of one message,
a bound on memory, and a stack that is deep enough for any grammar of the size that is let in. The host starts
another one.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from wicketgate.engine.frames import Splitter
from wicketgate.engine.mlx.mask_wire import (
    Close,
    Consume,
    Open,
    State,
    ToMasks,
    Vocabulary,
    decode_to_masks,
    encode,
)

if TYPE_CHECKING:
    from wicketgate.engine.wire import Grammar

OPEN_CPU_S: Final = 0.3
"""A schema of 30 KB with 80 objects takes 0.07 s (Linux CPU)."""
CONSUME_CPU_S: Final = 0.1
"""A mask takes 0.05 ms in the median; the first ones of a grammar up to 5 ms (Linux CPU)."""
MEMORY_BYTES: Final = 3 * 1024**3
STACK_BYTES: Final = 512 * 1024**2
"""Reserved, and used only by a grammar that goes so deep; a chain of 8,000 rules does not."""
MAX_ERROR_CHARACTERS: Final = 300
_RECEIVE_BYTES: Final = 64 * 1024
WHITE_SPACE: Final = r"[ \n\r\t]{0,24}"
"""Enough to indent; without a bound a model may go on with white space until its tokens are used up."""
_LIMITS: Final = LLParserLimits(step_lexer_fuel=50_000, verbose_errors=False)


class Masks:
    """
    The grammars that are open, by the ids that the host gave them.

    Raises:
        OSError: the tokenizer's file cannot be read.
        ValueError: it is no tokenizer, or not that of a model of this size.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size
        text = Path(vocabulary.tokenizer).read_text(encoding="utf-8")
        eos = vocabulary.eos_token_ids
        self._tokenizer = LLTokenizer(text, n_vocab=vocabulary.size, eos_token=eos or None)
        # llguidance must have an end token and picks one; a model that knows none must not draw it.
        self._barred = sum(1 << token for token in set(self._tokenizer.eos_tokens) - set(eos))
        self._matchers: dict[int, LLMatcher] = {}

    def open(self, message: Open) -> State:
        """Compile a grammar and take in what was emitted under it."""
        try:
            grammar = _source(message.grammar)
        except ValueError as error:
            return State(error=_shortened(str(error)))
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        matcher.consume_tokens(message.tokens)
        self._matchers[message.id] = matcher
        return self._state(message.id)

    def consume(self, message: Consume) -> State:
        """Go on by one token."""
        matcher = self._matchers.get(message.id)
        if matcher is None:
            return State(is_over=True)
        matcher.consume_token(message.token)
        return self._state(message.id)

    def close(self, message: Close) -> None:
        """Forget a grammar."""
        self._matchers.pop(message.id, None)

    def _state(self, key: int) -> State:
        matcher = self._matchers[key]
        if not matcher.is_stopped():
            words = self._words(matcher)
            if any(words) and not matcher.is_error():
                return State(words)
        del self._matchers[key]
        if matcher.is_error():
            return State(error=_shortened(matcher.get_error()))
        return State(is_over=True)

    def _words(self, matcher: LLMatcher) -> bytes:
        """Return the mask of the model's token ids; llguidance's is a word longer."""
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        bits &= ((1 << self._size) - 1) & ~self._barred
        return bits.to_bytes(-(-self._size // 32) * 4, "little")


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_object" | "json_schema":
            schema = grammar.text if grammar.kind == "json_schema" else '{"type": "object"}'
            return LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": WHITE_SPACE})
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.text)


def _shortened(error: str) -> str:
    text = error.removesuffix("<non-verbose/>").strip()
    if len(text) <= MAX_ERROR_CHARACTERS:
        return text
    # It quotes the grammar in the middle, and says what is wrong at the end.
    half = MAX_ERROR_CHARACTERS // 2
    return f"{text[:half]} ... {text[-half:]}"


def answer(message: ToMasks, masks: Masks) -> State | None:
    """Do what one message asks for, within its processor time; past that the system ends the process."""
    opening = isinstance(message, Open)
    signal.setitimer(signal.ITIMER_VIRTUAL, OPEN_CPU_S if opening else CONSUME_CPU_S)
    try:
        match message:
            case Open():
                return masks.open(message)
            case Consume():
                return masks.consume(message)
            case Close():
                masks.close(message)
                return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)


def serve(sock: socket.socket, vocabulary: Vocabulary) -> None:
    """Say whether the vocabulary can be used, then answer until the host is gone."""
    try:
        masks = Masks(vocabulary)
    except (OSError, ValueError) as error:
        sock.sendall(encode(State(error=_shortened(str(error)))))
        return
    sock.sendall(encode(State()))
    splitter = Splitter()
    while data := sock.recv(_RECEIVE_BYTES):
        for body in splitter.feed(data):
            state = answer(decode_to_masks(body), masks)
            if state is not None:
                sock.sendall(encode(state))


def main() -> int:
    """Run until the host is gone."""
    parser = argparse.ArgumentParser(prog="wicketgate.engine.mlx.mask_process")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the host, inherited")
    parser.add_argument("--vocabulary", required=True, help="Vocabulary as JSON")
    parsed = parser.parse_args()
    # Ctrl-C reaches the whole group; this process ends when its host does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not every system bounds address space; processor time is bounded in any case.
    for bound, size in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(bound, (size, size))
    sock = socket.socket(fileno=parsed.fd)
    vocabulary = msgspec.json.decode(parsed.vocabulary, type=Vocabulary)
    threading.stack_size(STACK_BYTES)
    worker = threading.Thread(target=serve, args=(sock, vocabulary))
    worker.start()
    worker.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
