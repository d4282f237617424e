"""Which tokens' log-probabilities belong to the text that is out (pure)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wicketgate.inference import TokenLogprob


class Entries:
    """
    Follows the log-probabilities of one answer from its tokens to the text that the client sees.

    A token is decoded to a span of the whole text. Parts of the whole text are content, the others
    (reasoning, markers, calls) are not; of the content some is held back, and some is cut. A token's entry
    goes out with the first character of content that it has a part in, and with none is dropped.
    """

    def __init__(self) -> None:
        self._open: list[TokenLogprob] = []
        """Tokens of a character that is still unfinished."""
        self._decoded: deque[tuple[int, int, TokenLogprob]] = deque()
        """Begin and end in the whole text, for those not known to be content."""
        self._content: deque[tuple[int, TokenLogprob]] = deque()
        """Begin in the content, for those that are not out."""
        self._decoded_chars = 0
        self._content_chars = 0
        self._out_chars = 0

    def arrived(self, entry: TokenLogprob) -> None:
        """Take the entry of the token whose text `decoded` tells next."""
        self._open.append(entry)

    def decoded(self, chars: int) -> None:
        """Take the length of the text that the tokens arrived so far have completed."""
        begin, self._decoded_chars = self._decoded_chars, self._decoded_chars + chars
        if chars:
            self._decoded.extend((begin, self._decoded_chars, entry) for entry in self._open)
            self._open.clear()

    def kept(self, begin: int, chars: int) -> None:
        """Take a span of the whole text that is content; spans come in order."""
        while self._decoded and self._decoded[0][0] < begin + chars:
            first, end, entry = self._decoded.popleft()
            if end > begin:
                self._content.append((self._content_chars + max(first - begin, 0), entry))
        self._content_chars += chars

    def out(self, chars: int) -> tuple[TokenLogprob, ...]:
        """Take the length of the content that goes out, return its entries."""
        self._out_chars += chars
        entries = []
        while self._content and self._content[0][0] < self._out_chars:
            entries.append(self._content.popleft()[1])
        return tuple(entries)
