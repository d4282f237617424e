"""Pins the bucket of a key: CBOR as cbor2 writes it, MurmurHash3 as published, hashes as flagd core's."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter

import cbor2
import pytest

from rollout.bucketing import BUCKETS, bucket, cbor_text, flag_head, is_on, threshold
from rollout.spec import FULL_MILLIPERCENT
from tests.vectors import flagd_core

# Made once with cbor2 6.2.1 and the reference implementation below; they must never change.
RECORDED = [
    ("ttft_pipeline", "sess-81", 650511905),
    ("ttft_pipeline", "", 3639849452),
    ("adaptive_governor", "user-42", 1222173565),
    ("http2_transport", "127.0.0.1:50123", 2265904010),
    ("qos_monitoring", "Zürich 東京 \U0001f30a", 2138120984),
    ("f", "k" * 300, 2703089215),
]


def murmur3_32(data: bytes) -> int:
    """Austin Appleby's MurmurHash3_x86_32 with seed 0, written from its description."""
    mask, h = 0xFFFFFFFF, 0

    def mixed(k: int) -> int:
        k = k * 0xCC9E2D51 & mask
        return (k << 15 | k >> 17) * 0x1B873593 & mask

    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        h ^= mixed(int.from_bytes(data[i : i + 4], "little"))
        h = ((h << 13 | h >> 19) & mask) * 5 + 0xE6546B64 & mask
    if data[whole:]:
        h ^= mixed(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


def test_the_reference_implementation_gives_the_published_values():
    assert [murmur3_32(text) for text in (b"", b"hello", b"hello, world")] == [0, 0x248BFA47, 0x149BBB7F]


@pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
def test_text_is_encoded_as_cbor_in_the_shortest_form(length):
    assert cbor_text("x" * length) == cbor2.dumps("x" * length)


def test_a_lone_surrogate_still_gets_a_bucket():
    assert cbor_text("\ud800") == b"\x63\xed\xa0\x80"


def test_the_hash_input_is_the_cbor_array_of_flag_and_key():
    assert flag_head("qos") + cbor_text("ключ") == cbor2.dumps(["qos", "ключ"])


@pytest.mark.parametrize(("flag", "key", "expected"), RECORDED)
def test_recorded_buckets_stay_as_they_are(flag, key, expected):
    assert bucket(flag, key) == expected
    assert murmur3_32(cbor2.dumps([flag, key])) == expected


def test_nobody_is_within_0_percent():
    assert not is_on(0, 0)


def test_everybody_is_within_100_percent():
    assert is_on(BUCKETS - 1, FULL_MILLIPERCENT)


def test_the_threshold_is_rounded_up():
    # 0.001 % of 2^32 is 42,949.67296.
    assert threshold(1) == 42_950
    assert is_on(42_949, 1)
    assert not is_on(42_950, 1)


def test_half_is_exactly_half():
    assert threshold(50_000) == 2**31


@pytest.mark.parametrize("flag", flagd_core.FLAGS)
def test_keys_of_every_kind_have_the_hash_that_flagd_core_gives_them(flag):
    recorded = json.loads(flagd_core.FILE.read_text(encoding="utf-8"))["high_bytes"][flag]
    some = [key for key in flagd_core.keys(flagd_core.COUNT) if key]

    ours = bytes(bucket(flag, key) >> 24 for key in some).hex()

    assert len(some) >= 1_999
    assert ours == recorded


def test_a_thousand_bins_are_filled_evenly():
    count, bins = 200_000, 1_000
    filled = Counter(bucket("ttft_pipeline", f"user-{number}") * bins >> 32 for number in range(count))

    expected = count / bins
    chi2 = sum((filled[place] - expected) ** 2 / expected for place in range(bins))

    freedom = bins - 1
    assert abs(chi2 / freedom - 1) < 4 * math.sqrt(2 / freedom)


def test_shares_from_a_thousandth_of_a_percent_up_let_in_their_part_of_the_keys():
    count = 200_000
    buckets = sorted(bucket("adaptive_governor", f"sess-{number}") for number in range(count))

    for share in (1, 10, 100, 1_000, 10_000, 50_000, 90_000, 99_000, 99_900, 99_999):
        ratio = share / FULL_MILLIPERCENT
        let_in = bisect_left(buckets, threshold(share))
        assert abs(let_in - count * ratio) < 4 * math.sqrt(count * ratio * (1 - ratio)), share
