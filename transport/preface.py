"""What a connection in clear text speaks, told from its first bytes (pure)."""

from __future__ import annotations

import struct
from typing import Final

CLIENT_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How a client begins that knows beforehand that HTTP/2 is spoken; source: RFC 9113 section 3.4."""

_EMPTY_SETTINGS: Final = struct.pack(">HBBBI", 0, 0, 0x4, 0, 0)
_GOAWAY_HTTP_1_1_REQUIRED: Final = struct.pack(">HBBBIII", 0, 8, 0x7, 0, 0, 0, 0xD)

HTTP_1_1_REQUIRED: Final = _EMPTY_SETTINGS + _GOAWAY_HTTP_1_1_REQUIRED
"""All that is said to a client that speaks HTTP/2 where it may not: SETTINGS must come first in any case."""


def speaks_h2(data: bytes | bytearray) -> bool | None:
    """
    Say whether a connection that begins with these bytes speaks HTTP/2.

    Returns:
        None while both are possible, which is so for at most 23 bytes.
    """
    if data.startswith(CLIENT_PREFACE):
        return True
    return None if CLIENT_PREFACE.startswith(data) else False
