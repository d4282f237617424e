"""
The folder of KV files: what is in it, written whole or not at all, bounded, and rid of what is damaged.

Several hosts may share a folder. The name of a file says which model it is for and which tokens it holds,
files appear by a rename, and one that another host took away is a miss. A file's time of modification is the
time of its last use, so that the order of use survives restarts and is shared too. All calls come from one
thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np

from wicketgate.engine.kv.file import KvFileError, PayloadReader, read_header, write_file
from wicketgate.engine.kv.store import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from wicketgate.engine.kv.file import Encoded, KvHeader, TensorSpec

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BAD_FILES: Final = 4
"""Damaged files kept for whoever wants to look at them."""
MAX_TOLD: Final = 1000
"""Names remembered so that nothing is said twice of what stays where it is; no more are told of."""

_NAME = re.compile(r"(?P<fingerprint>[0-9a-f]{16})-(?P<digest>[0-9a-f]{32})\.kv")
_UNFINISHED: Final = ".tmp"
_BAD: Final = "bad"


class PayloadCodec(Protocol):
    """What turns payloads into tensors and back; called from the disk tier's thread."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits: model, tokenizer, versions and form, all that a payload depends on."""

    def is_trimmable(self, payload: object) -> bool:
        """Tell whether it can be cut back to its first tokens."""

    def encode(self, payload: object) -> Encoded | None:
        """Return it as tensors; None where it holds something that cannot be stored."""

    def decode(
        self, layout: str, specs: Sequence[TensorSpec], buffers: Iterator[memoryview], *, tokens: int
    ) -> tuple[object, int]:
        """
        Put a payload together; returns it, evaluated, and its size in bytes.

        Raises:
            ValueError: the tensors are none that this model's payload of so many tokens can have.
        """


@dataclass(frozen=True, slots=True)
class Listed:
    """A file in the folder."""

    name: str
    size_bytes: int
    used_unix_s: float


class KvFolder:
    """The files of one host's model, among those of others."""

    def __init__(self, path: Path, *, fingerprint: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.rejected_files = 0
        self._path = path
        self._fingerprint = fingerprint
        self._told: set[str] = set()

    def name_of(self, digest: str) -> str:
        """Return the name of the file for these tokens."""
        return f"{self._fingerprint}-{digest}.kv"

    def open(self) -> None:
        """
        Make the folder, for its owner only, and remove what killed writers have left.

        Raises:
            OSError: it cannot be made or used.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._path.stat().st_mode & 0o077:
            self._path.chmod(0o700)
        for file in self._path.glob(f"*{_UNFINISHED}"):
            self._remove_unfinished(file)

    def listed(self) -> list[Listed]:
        """Return the files of this model, least recently used first; what is none of ours is told of once."""
        found = []
        for file in _scanned(self._path):
            named = _NAME.fullmatch(file.name)
            if named is None:
                if file.name != _BAD and not file.name.endswith(_UNFINISHED):
                    self._tell(file.name, "its name is none of ours")
            elif not file.is_file(follow_symlinks=False):
                self._tell(file.name, "it is no regular file")
            elif named["fingerprint"] == self._fingerprint and file.name not in self._told:
                found += _status(file)
        return sorted(found, key=lambda each: each.used_unix_s)

    def header(self, name: str) -> KvHeader | None:
        """Read what a file says of itself; None for one that is gone, or was bad and is set aside now."""
        return self._using(name, lambda descriptor: self._header(name, descriptor)[0])

    def read(
        self, name: str, expected: KvHeader, codec: PayloadCodec, between: Callable[[], None]
    ) -> tuple[object, int] | None:
        """
        Return payload and size; None for a file that is gone, or was bad and is set aside now.

        Args:
            name: Of the file.
            expected: What it said of itself before.
            codec: What puts the payload together.
            between: Called before each tensor is put to use; what it raises ends the reading.
        """

        def decoded(descriptor: int) -> tuple[object, int]:
            header, begin = self._header(name, descriptor)
            if not np.array_equal(header.tokens, expected.tokens):
                raise KvFileError("its tokens changed")
            reader = PayloadReader(descriptor, header.specs, begin=begin)
            buffers = _interrupted(reader.buffers(), between)
            result = codec.decode(header.layout, header.specs, buffers, tokens=len(header.tokens))
            reader.verify()
            return result

        return self._using(name, decoded)

    def write(self, name: str, header: KvHeader, encoded: Encoded) -> Iterator[None]:
        """
        Write a file under another name and rename it when it is complete; yields between tensors.

        Raises:
            OSError: there is no room, or no right to write.
        """
        descriptor, unfinished = tempfile.mkstemp(dir=self._path, prefix=f"{name}.", suffix=_UNFINISHED)
        try:
            # Held while the file is unfinished: a host that starts meanwhile sees that it has a writer.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield from write_file(descriptor, header, encoded.buffers())
            os.fsync(descriptor)
            Path(unfinished).replace(self._path / name)
            self._told.discard(name)
        finally:
            os.close(descriptor)
            Path(unfinished).unlink(missing_ok=True)

    def make_room(self, size_bytes: int, *, spared: Collection[str]) -> list[str]:
        """Remove files, whoever's, until so much fits; damaged ones first, then the least recently used."""
        bad = [each for file in _scanned(self._path / _BAD) for each in _status(file)]
        ours = [each for file in _scanned(self._path) if _NAME.fullmatch(file.name) for each in _status(file)]
        surplus_bytes = sum(each.size_bytes for each in [*bad, *ours]) + size_bytes - self.max_bytes
        for each in bad:
            if surplus_bytes > 0:
                self.remove(f"{_BAD}/{each.name}")
                surplus_bytes -= each.size_bytes
        removed = []
        for each in sorted(ours, key=lambda each: each.used_unix_s):
            if surplus_bytes <= 0:
                break
            if each.name not in spared:
                self.remove(each.name)
                removed.append(each.name)
                surplus_bytes -= each.size_bytes
        return removed

    def touch(self, name: str) -> None:
        """Make a file the one used last; one that is gone is ignored."""
        with suppress(OSError):
            os.utime(self._path / name, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is ignored."""
        with suppress(OSError):
            (self._path / name).unlink(missing_ok=True)

    def remove_bad(self) -> None:
        """Remove what was set aside."""
        for file in _scanned(self._path / _BAD):
            self.remove(f"{_BAD}/{file.name}")

    def _header(self, name: str, descriptor: int) -> tuple[KvHeader, int]:
        header, begin = read_header(descriptor, max_bytes=self.max_bytes)
        if header.fingerprint != self._fingerprint:
            raise KvFileError("it was made for another model or by another version")
        if self.name_of(digest_of(header.tokens, salt=header.salt)) != name:
            raise KvFileError("its tokens are not those of its name")
        return header, begin

    def _using(self, name: str, use: Callable[[int], T]) -> T | None:
        try:
            # Neither following a link nor waiting for the other end of a pipe that somebody put there.
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside(name, error.strerror or type(error).__name__)
            return None
        try:
            return use(descriptor)
        except (ValueError, OSError) as error:
            self._set_aside(name, str(error))
            return None
        finally:
            os.close(descriptor)

    def _set_aside(self, name: str, reason: str) -> None:
        self._tell(name, reason)
        aside = self._path / _BAD
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            (self._path / name).replace(aside / name)
            self._told.discard(name)
            kept = sorted(_scanned(aside), key=lambda file: file.stat(follow_symlinks=False).st_mtime)
            for file in kept[:-MAX_BAD_FILES]:
                self.remove(f"{_BAD}/{file.name}")
        except OSError as error:
            log.debug("kv_file_not_set_aside", extra={"file": name, "reason": error.strerror})

    def _tell(self, name: str, reason: str) -> None:
        if name not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(name)
            self.rejected_files += 1
            log.warning("kv_file_ignored", extra={"file": name, "reason": reason})

    def _remove_unfinished(self, file: Path) -> None:
        with suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _interrupted(buffers: Iterator[memoryview], between: Callable[[], None]) -> Iterator[memoryview]:
    for buffer in buffers:
        between()
        yield buffer


def _scanned(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as files:
            return list(files)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _status(file: os.DirEntry[str]) -> list[Listed]:
    """Return what a folder's entry is; nothing if it is gone."""
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return []
    return [Listed(file.name, status.st_size, status.st_mtime)]
