"""What is unsent of one stream (pure): bytes in, pieces of at most so many bytes out."""

from __future__ import annotations


class Outbox:
    """Bytes in order; cheap when all leave at once, which is how tokens go."""

    __slots__ = ("_offset", "_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._offset = 0
        self.size = 0
        """Bytes inside."""

    def add(self, data: bytes) -> int:
        """Put bytes at the end; returns how many are inside by then."""
        self._parts.append(data)
        self.size = size = self.size + len(data)
        return size

    def take(self, most_bytes: int) -> bytes:
        """Take bytes from the front: `most_bytes`, or all where there are fewer."""
        parts = self._parts
        if most_bytes >= self.size:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            if self._offset:
                data = data[self._offset :]
                self._offset = 0
            parts.clear()
            self.size = 0
            return data
        end = self._offset + most_bytes
        if len(parts[0]) < end:
            # One join serves all takes until it is used up: many small parts are not joined each time.
            self._parts = parts = [b"".join(parts)]
        data = parts[0][self._offset : end]
        self._offset = end
        self.size -= most_bytes
        if end == len(parts[0]):
            del parts[0]
            self._offset = 0
        return data

    def clear(self) -> None:
        """Forget what is inside."""
        self._parts.clear()
        self._offset = 0
        self.size = 0
