"""
API keys: who may ask, read from a file that holds only their hashes.

A line is `ID ROLE SHA256HEX`, with role `user` or `admin`, and after it the limits of this key where they are
not those of `security.per_key`: `requests_per_minute=60 tokens_per_minute=100000 streams=4`, any of them
`none`. `#` begins a comment. To make one:

    key=$(openssl rand -hex 24); echo "$key"
    printf '%s' "$key" | sha256sum | { read -r hash _; echo "alice user $hash"; } >> keys; chmod 600 keys

(on macOS `shasum -a 256` instead of sha256sum). The client sends the key as `Authorization: Bearer KEY` or
`x-api-key: KEY`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from wicketgate.config_fields import is_loopback
from wicketgate.errors import AuthenticationError, ConfigurationError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_KEYS: Final = 4096
"""Every request's key is compared with all of them."""
MAX_FILE_BYTES: Final = 1 << 20
_LINE: Final = re.compile(r"(\S{1,128})\s+(\S+)\s+([0-9a-fA-F]{64})((?:\s+[a-z_]+=[a-z0-9]+)*)\Z")
LINE_FORM: Final = "ID user|admin SHA256HEX [requests_per_minute=N] [tokens_per_minute=N] [streams=N]"
LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "streams")
LARGEST_LIMIT: Final = 10**12


class Role(StrEnum):
    """What a key may do."""

    USER = "user"
    ADMIN = "admin"
    """Everything a user may, and changes through the admin listener."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One line of the file."""

    id: str
    role: Role
    sha256: str
    """Lower-case hexadecimal."""
    limits: tuple[tuple[str, int | None], ...] = ()
    """Its own limits, by the names of `security.per_key`, which says the rest; None is no limit."""


class Keys:
    """
    The keys that are let in.

    Args:
        keys: At least one.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def load(cls, path: Path) -> Keys:
        """
        Read a file of keys.

        Raises:
            ConfigurationError: it is not there, others may read it, a line is wrong, or it holds none.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(MAX_FILE_BYTES + 1)
            text = content.decode()
        except OSError as error:
            raise ConfigurationError(f"cannot read the API keys in {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"cannot read the API keys in {path}: it is not UTF-8") from None
        if mode & 0o077:
            raise ConfigurationError(
                f"{path} must be readable by its owner only, its mode is {mode:04o}; run: chmod 600 {path}"
            )
        if len(content) > MAX_FILE_BYTES:
            raise ConfigurationError(
                f"{path} must be at most {MAX_FILE_BYTES >> 20} MiB; is it the right file?"
            )
        keys = [
            _parse(line.strip(), path=path, number=number)
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not keys:
            raise ConfigurationError(f"{path} holds no key; a line is: {LINE_FORM}")
        if len({key.id for key in keys}) < len(keys):
            raise ConfigurationError(f"{path} must not name an id twice")
        if len(keys) > MAX_KEYS:
            raise ConfigurationError(f"{path} must hold at most {MAX_KEYS} keys, got {len(keys)}")
        return cls(keys)

    def __len__(self) -> int:
        """Count them."""
        return len(self._keys)

    def check(self, authorization: str | None, api_key: str | None = None, *, role: Role = Role.USER) -> Key:
        """
        Find the key that a request brings. Every key is compared, each in constant time.

        Args:
            authorization: The header `Authorization`.
            api_key: The header `x-api-key`.
            role: What the request needs.

        Raises:
            AuthenticationError: no key, two that differ, or an unknown one.
            ForbiddenError: its role does not suffice.
        """
        secret = _secret(authorization, api_key)
        if secret is None:
            raise AuthenticationError("no API key: send it as Authorization: Bearer KEY")
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise AuthenticationError("the API key is not known here")
        if role is Role.ADMIN and found[0].role is not Role.ADMIN:
            raise ForbiddenError("this needs an API key of role admin")
        return found[0]


def require_keys(host: str, keys: Keys | None, *, key: str) -> None:
    """
    Refuse to serve others without keys.

    Args:
        host: Where the listener is bound.
        key: The configuration key to blame, "server.bind" for instance.

    Raises:
        ConfigurationError: bound off loopback, and there are no keys.
    """
    if keys is None and not is_loopback(host):
        raise ConfigurationError(
            f"{key}: {host} can be reached from other machines, and security.api_keys_file is not set;"
            " set it, or bind to 127.0.0.1",
            param=key,
        )


def _parse(line: str, *, path: Path, number: int) -> Key:
    match = _LINE.match(line)
    if match is None or match[2] not in tuple(Role):
        raise ConfigurationError(f"{path}, line {number}: must be {LINE_FORM}")
    try:
        limits = tuple(_limit(field) for field in match[4].split())
    except ValueError as error:
        raise ConfigurationError(f"{path}, line {number}: {error}") from None
    if len(dict(limits)) < len(limits):
        raise ConfigurationError(f"{path}, line {number}: must not name a limit twice")
    return Key(id=match[1], role=Role(match[2]), sha256=match[3].lower(), limits=limits)


def _limit(field: str) -> tuple[str, int | None]:
    name, _, value = field.partition("=")
    if name not in LIMITS:
        raise ValueError(f"a limit must be one of {', '.join(LIMITS)}")
    if value == "none":
        return name, None
    if not value.isdigit() or not 1 <= int(value) <= LARGEST_LIMIT:
        raise ValueError(f"{name} must be none or 1 to {LARGEST_LIMIT}")
    return name, int(value)


def _secret(authorization: str | None, api_key: str | None) -> str | None:
    """
    Return the key that a request brings, None where it brings none.

    Raises:
        AuthenticationError: it brings two; which of them was meant nobody can say.
    """
    scheme, _, given = (authorization or "").partition(" ")
    bearer = given.strip() if scheme.lower() == "bearer" else ""
    if bearer and api_key and bearer != api_key:
        raise AuthenticationError("Authorization and x-api-key bring different keys; send one of them")
    return bearer or api_key or None
