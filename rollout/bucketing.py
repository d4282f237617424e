"""
The stable bucket of a key under a flag.

Theory of operation: the bucket is MurmurHash3 (x86, 32 bits, seed 0) of the CBOR encoding of the array
`[flag, key]`, as an unsigned number. A flag with a share of p lets in the buckets below p of 2^32. That is
monotone (who is in at 1 % is in at 10 %), differs from flag to flag, needs no state, and is bit for bit
what flagd does since core 2.0, so any flagd client in any language agrees with us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mmh3

from rollout.spec import FULL_MILLIPERCENT

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "murmur3-cbor/1"
"""Names the algorithm: another one would move keys to other buckets."""

BUCKETS = 2**32

bucket_of_encoded: Callable[[bytes], int] = mmh3.mmh3_32_uintdigest
"""Finds the bucket of `flag_head(flag) + cbor_text(key)`; an alias, for one call more doubles its cost."""

_ARRAY_OF_TWO = b"\x82"
_TEXT = 0x60


def _text_head(size_bytes: int) -> bytes:
    if size_bytes < 24:
        return bytes((_TEXT | size_bytes,))
    for more, width in ((24, 1), (25, 2)):
        if size_bytes < 1 << (8 * width):
            return bytes((_TEXT | more,)) + size_bytes.to_bytes(width, "big")
    return bytes((_TEXT | 26,)) + size_bytes.to_bytes(4, "big")


_HEADS = tuple(_text_head(size_bytes) for size_bytes in range(256))


def cbor_text(text: str) -> bytes:
    """
    Encode one text string in CBOR.

    A lone surrogate, which JSON can smuggle into a key, is kept as its three bytes: a strange key
    must get a bucket like any other.

    Source:
        RFC 8949, section 3.1, major type 3, shortest form of the length (below 4 GiB).
    """
    try:
        raw = text.encode()
        return _HEADS[len(raw)] + raw
    except (UnicodeEncodeError, IndexError):
        raw = text.encode("utf-8", "surrogatepass")
        return _text_head(len(raw)) + raw


def flag_head(flag: str) -> bytes:
    """Encode what is the same for every key of a flag: the array's head and the flag's name."""
    return _ARRAY_OF_TWO + cbor_text(flag)


def bucket(flag: str, key: str) -> int:
    """
    Find the bucket of a key under a flag.

    Returns:
        0 to 2^32 - 1, the same in every process and on every machine.
    """
    return bucket_of_encoded(flag_head(flag) + cbor_text(key))


def threshold(share_millipercent: int) -> int:
    """
    Count the buckets that a share lets in, rounded up, so that no share above 0 lets in nobody.

    Args:
        share_millipercent: 0 to 100,000.
    """
    return -(-share_millipercent * BUCKETS // FULL_MILLIPERCENT)


def is_on(bucket: int, share_millipercent: int) -> bool:
    """
    Tell whether a bucket is within a share. At 0 and 100,000 the answer needs no key.

    Args:
        bucket: 0 to 2^32 - 1.
        share_millipercent: 0 to 100,000.
    """
    return bucket < threshold(share_millipercent)
