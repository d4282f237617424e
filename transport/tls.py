"""The certificate of a server: a context that offers HTTP/2 and one that does not, replaced while it runs."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_Stamp = tuple[int, int, int] | None


class Certificate:
    """
    A certificate chain and its key, as files.

    Args:
        chain: PEM file.
        key: PEM file, not encrypted.

    Raises:
        OSError: they cannot be used; names the files and the reason.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._seen: tuple[_Stamp, _Stamp] = (None, None)
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self.reload()

    def context(self, *, offers_h2: bool) -> ssl.SSLContext:
        """Return the context for a new connection."""
        return self._contexts[offers_h2]

    def has_changed(self) -> bool:
        """Say whether the files are others than those last read, good or bad: two calls of stat."""
        return self._stamps() != self._seen

    def reload(self) -> None:
        """
        Read the files again, for new connections; those that exist go on with what they have.

        Raises:
            OSError: they cannot be used; names the files and the reason, and nothing is changed.
        """
        # Noted first: files replaced while they are read are then read again.
        self._seen = self._stamps()
        self._contexts = {offers_h2: self._made(offers_h2=offers_h2) for offers_h2 in (True, False)}

    def _stamps(self) -> tuple[_Stamp, _Stamp]:
        return _stamp(self._chain), _stamp(self._key)

    def _made(self, *, offers_h2: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # RFC 9113 section 9.2: TLS 1.2 or newer, no compression, no cipher of its block list.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.set_alpn_protocols(["h2", "http/1.1"] if offers_h2 else ["http/1.1"])
        try:
            # Without a password OpenSSL would ask for one at the terminal, and the gateway stand still.
            context.load_cert_chain(self._chain, self._key, password="")
        except OSError as error:
            files = f"the TLS certificate {self._chain} with the key {self._key}"
            raise OSError(error.errno, f"cannot use {files}: {self._reason(error)}") from None
        return context

    def _reason(self, error: OSError) -> str:
        """Say what is wrong, and with which of the files where the error does not."""
        for path in (self._chain, self._key):
            try:
                os.close(os.open(path, os.O_RDONLY))
            except OSError as unreadable:
                return f"{path.name}: {unreadable.strerror}"
        return error.strerror or str(error)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
