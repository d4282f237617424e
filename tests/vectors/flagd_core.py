"""
What flagd core decides for keys of every kind, recorded, so that CI can compare without installing it.

    python -m tests.vectors.flagd_core record          writes flagd_core.json beside this file
    python -m tests.vectors.flagd_core compare 100000  compares decisions one by one, the export's too

Both need openfeature-flagd-core 2 in the environment. Keys come from a hash, not from `random`, whose numbers
may change with Python.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.assignment import FlagSnapshot
from rollout.evaluation import evaluate
from rollout.flagd import flagd_export
from rollout.spec import FULL_MILLIPERCENT, Feature, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = Path(__file__).with_suffix(".json")
FLAGS = ("adaptive_governor", "http2_transport", "f", "flagge-\u00fc\u6771\U0001f30a")
SHARES_MILLIPERCENT = (1, 100, 1_000, 10_000, 50_000, 90_000, 99_000, 99_999)
COUNT = 2_000
ALPHABETS = (
    "0123456789abcdef-",
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@/ ",
    "\u00e4\u00f6\u00fc\u00df\u00e9\u00f1\u00f8\u0142\u011f\u0131",
    "\u043a\u043b\u044e\u0447\u03b1\u03b2\u03b3\u05d0\u05d1\u0627\u0628\u0939\u093f",
    "\u6771\u4eac\ud55c\uad6d\U0001f30a\U0001f680\u200d\ufe0f\x00\x7f\u0301\uffff\U0010ffff",
)
"""What keys are made of: ids, addresses, and text of one to four bytes a character."""
LENGTHS = (1, 2, 3, 4, 5, 8, 12, 16, 22, 23, 24, 25, 32, 36, 48, 64, 100, 255, 256, 300)
"""In characters, around those at which CBOR's head grows; one key in 1,024 is longer than 65,535 bytes."""


def keys(count: int) -> Iterator[str]:
    """Make keys, the same in every version of Python; the first one is empty."""
    yield ""
    for number in range(1, count):
        chance = hashlib.sha256(b"wicketgate key %d" % number).digest()
        alphabet = ALPHABETS[chance[0] % len(ALPHABETS)]
        length = LENGTHS[chance[1] % len(LENGTHS)]
        if number % 1024 == 0:
            length = 65_530 + chance[2] % 32
        text = "".join(alphabet[byte % len(alphabet)] for byte in chance[3:])
        yield (text * (length // len(text) + 1))[:length] + (f"#{number}" if length > 8 else "")


def snapshot_at(share_millipercent: int) -> FlagSnapshot:
    """Declare every flag at one share."""
    percentage = share_millipercent / 1000
    features = {name: Feature(name=name, rollout_percentage=percentage) for name in FLAGS}
    return FlagSnapshot(Spec(features=features), {})


def decisions(flags: FlagSnapshot, flag: str, count: int) -> str:
    """Return our decisions as bits in hexadecimal digits."""
    return as_hex([evaluate(flags, flag, key or None).on for key in keys(count)])


def as_hex(bits: list[bool]) -> str:
    """Write bits as hexadecimal digits, the first bit last."""
    return f"{sum(bit << place for place, bit in enumerate(bits)):x}"


def _core(document: dict[str, Any]) -> Callable[[str, str], Any]:
    from openfeature.contrib.tools.flagd.core import FlagdCore
    from openfeature.evaluation_context import EvaluationContext

    core = FlagdCore()
    core.set_flags(json.dumps(document))

    def resolve(flag: str, key: str) -> Any:
        return core.resolve_boolean_value(flag, default_value=True, ctx=EvaluationContext(key))

    return resolve


def _high_byte(key: str, *, flag: str) -> int:
    """Ask flagd for the first byte of the hash: 256 variants of one weight share the buckets."""
    from openfeature.contrib.tools.flagd.core.targeting.custom_ops import fractional

    variants = [[str(byte), 1] for byte in range(256)]
    found = fractional({"$flagd": {"flagKey": flag}, "targetingKey": key}, *variants)
    return int(found)


def record() -> None:
    """Write what flagd decides."""
    some = [key for key in keys(COUNT) if key]
    document = {
        "made_by": "openfeature-flagd-core 2.0.0",
        "high_bytes": {flag: bytes(map(partial(_high_byte, flag=flag), some)).hex() for flag in FLAGS},
        "on": {
            str(share): {
                flag: as_hex([resolve(flag, key).value for key in keys(COUNT)]) for flag in FLAGS[:1]
            }
            for share in SHARES_MILLIPERCENT
            for resolve in [_core(_by_hand(share))]
        },
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _by_hand(share_millipercent: int) -> dict[str, Any]:
    """Write the flags as a user of flagd would, not as our export does."""
    rest = FULL_MILLIPERCENT - share_millipercent
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"fractional": [["on", share_millipercent], ["off", rest]]},
    }
    return {"flags": dict.fromkeys(FLAGS, flag)}


def compare(count: int) -> int:
    """Count the decisions in which flagd, fed by our export, differs from us."""
    differing = 0
    for share in SHARES_MILLIPERCENT:
        flags = snapshot_at(share)
        resolve = _core(flagd_export(flags.spec, flags.shares).document)
        flag = FLAGS[SHARES_MILLIPERCENT.index(share) % len(FLAGS)]
        found = sum(
            resolve(flag, key).value is not evaluate(flags, flag, key or None).on for key in keys(count)
        )
        print(f"{flag} at {share / 1000:g} %: {found} of {count} decisions differ")  # noqa: T201
        differing += found
    return differing


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record()
    else:
        sys.exit(min(compare(int(sys.argv[2])), 1))
