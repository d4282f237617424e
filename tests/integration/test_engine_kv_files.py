"""Pins KV files with real models: exact after a restart, and blind to whatever else lies in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import time
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from tests.kv_fakes import parts, signed
from wicketgate.engine.kv.cache import KvCache, open_cache
from wicketgate.engine.kv.shelf import KvShelf
from wicketgate.engine.kv.store import Entry, Prefix, as_tokens
from wicketgate.engine.mlx.kv_files import KvFiles, model_identity
from wicketgate.engine.options import HostOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_S = 30.0
MAX_BYTES = 256 * 1024 * 1024
PROMPT = [(7 * number) % 900 + 10 for number in range(300)]


def ignore() -> None:
    pass


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture(scope="module")
def codec(model: Any) -> KvFiles:
    return KvFiles(model, identity="demo")


def computed(model: Any, tokens: list[int]) -> list[Any]:
    cache = make_prompt_cache(model)
    model(mx.array([tokens]), cache=cache)
    mx.eval([part.state for part in cache])
    return cache


def prefix(tokens: list[int], cache: list[Any]) -> Prefix:
    return Prefix(tokens=tokens, payload=cache, size_bytes=sum(part.nbytes for part in cache))


def entry(tokens: list[int], cache: list[Any]) -> Entry[Any]:
    return Entry(tokens=as_tokens(tokens), payload=cache, size_bytes=1)


def continued(model: Any, cache: list[Any], tokens: list[int]) -> Any:
    logits = model(mx.array([tokens]), cache=cache)[0, -1].astype(mx.float32)
    mx.eval(logits)
    return logits


def answer(model: Any, cache: list[Any], tokens: list[int], count: int) -> list[int]:
    """Answer greedily from a cache and the tokens that it lacks."""
    told = []
    while len(told) < count:
        told.append(int(mx.argmax(continued(model, cache, tokens)).item()))
        tokens = told[-1:]
    mx.eval([part.state for part in cache])
    return told


@pytest.fixture
def opened(tmp_path: Path, codec: KvFiles) -> Iterator[Callable[..., KvCache]]:
    """Open caches over one folder, and close them in the end."""
    caches = []

    def make(with_codec: Any = codec, **options: Any) -> KvCache:
        settings = {"kv_dir": str(tmp_path / "kv"), "kv_disk_bytes": MAX_BYTES} | options
        caches.append(open_cache(HostOptions(**settings), with_codec, clock=time.monotonic))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close(WAIT_S)


def restarted(opened: Callable[..., KvCache], cache: KvCache, **settings: Any) -> KvCache:
    """Close a cache when all is written, and open another on its folder that knows all files."""
    cache.close(WAIT_S)
    again = opened(**settings)
    again.preload(count=0, timeout_s=WAIT_S)
    return again


def fetched(cache: KvCache, prompt: list[int], *, salt: str = "") -> Any:
    """Return the hit that comes from disk, or None."""
    fetch = cache.fetch(prompt, salt=salt, held_tokens=0)
    if fetch is None:
        return None
    assert fetch.wait(WAIT_S)
    return fetch.hit


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("wicketgate")]


# Exactness


def test_what_is_loaded_after_a_restart_goes_on_as_if_nothing_had_been(
    model: Any, opened: Callable[..., KvCache]
) -> None:
    cache = opened()
    held = computed(model, PROMPT)
    cache.keep(1, prefix(PROMPT, held), salt="", session="one")

    hit = fetched(restarted(opened, cache), [*PROMPT, 5, 6])

    assert hit.shared_tokens == len(PROMPT)
    assert (
        float(mx.abs(continued(model, hit.entry.payload, [5, 6]) - continued(model, held, [5, 6])).max())
        < 1e-5
    )
    assert answer(model, hit.entry.payload, [7], 32) == answer(model, held, [7], 32)


def test_a_part_of_what_is_loaded_serves_a_prompt_that_parts_from_it(
    model: Any, opened: Callable[..., KvCache]
) -> None:
    cache = opened()
    cache.keep(1, prefix(PROMPT, computed(model, PROMPT)), salt="", session="")
    prompt = [*PROMPT[:200], 3, 4, 5]

    hit = fetched(restarted(opened, cache), prompt)
    for part in hit.entry.payload:
        part.trim(len(PROMPT) - hit.shared_tokens)

    assert hit.shared_tokens == 200
    alone = computed(model, PROMPT[:200])
    assert answer(model, hit.entry.payload, prompt[200:], 16) == answer(model, alone, prompt[200:], 16)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_come_back_as_they_were(
    demo_model: Path, opened: Callable[..., KvCache], dtype: mx.Dtype
) -> None:
    model = load_model(demo_model)[0]
    model.set_dtype(dtype)
    codec = KvFiles(model, identity="demo")
    cache = opened(codec)
    held = computed(model, PROMPT)
    cache.keep(1, prefix(PROMPT, held), salt="", session="")

    hit = fetched(restarted(opened, cache, with_codec=codec), [*PROMPT, 5])

    assert [part.keys.dtype for part in hit.entry.payload] == [dtype] * len(held)
    assert mx.array_equal(continued(model, hit.entry.payload, [5]), continued(model, held, [5]))


def test_eight_bits_are_a_third_of_the_size_and_nearly_the_same(
    model: Any, opened: Callable[..., KvCache], tmp_path: Path
) -> None:
    codec = KvFiles(model, identity="demo", bits=8)
    held = computed(model, PROMPT)
    cache = opened(codec)
    cache.keep(1, prefix(PROMPT, held), salt="", session="")

    hit = fetched(restarted(opened, cache, with_codec=codec), [*PROMPT, 5])

    used_bytes = sum(2 * part.keys[..., : part.offset, :].nbytes for part in held)
    (file,) = (tmp_path / "kv").glob("*.kv")
    assert file.stat().st_size < 0.33 * used_bytes + 8192
    difference = mx.abs(continued(model, hit.entry.payload, [5]) - continued(model, held, [5]))
    assert float(difference.max()) < 0.5


def test_a_file_holds_the_used_part_only(model: Any, opened: Callable[..., KvCache], tmp_path: Path) -> None:
    cache = opened()
    held = computed(model, PROMPT)
    cache.keep(1, prefix(PROMPT, held), salt="", session="")
    cache.close(WAIT_S)

    (file,) = (tmp_path / "kv").glob("*.kv")
    formula_bytes = sum(2 * part.keys.shape[1] * part.keys.shape[3] * 4 for part in held) * len(PROMPT)
    assert 0 < file.stat().st_size - formula_bytes < 8192
    assert formula_bytes < sum(part.nbytes for part in held)


def test_another_salt_does_not_get_it(model: Any, opened: Callable[..., KvCache]) -> None:
    cache = opened()
    cache.keep(1, prefix(PROMPT, computed(model, PROMPT)), salt="a", session="")

    again = restarted(opened, cache)

    assert fetched(again, [*PROMPT, 5], salt="b") is None
    assert fetched(again, [*PROMPT, 5]) is None
    assert fetched(again, [*PROMPT, 5], salt="a") is not None


def test_a_conversation_that_grows_leaves_one_file(
    model: Any, opened: Callable[..., KvCache], tmp_path: Path
) -> None:
    cache = opened()
    for turn, count in enumerate((100, 200, 300)):
        tokens = PROMPT[:count]
        cache.keep(turn, prefix(tokens, computed(model, tokens)), salt="", session="one")

    again = restarted(opened, cache)

    assert len(list((tmp_path / "kv").glob("*.kv"))) == 1
    assert fetched(again, [*PROMPT, 5]).shared_tokens == 300


def test_short_prefixes_and_small_growth_are_not_written(
    model: Any, opened: Callable[..., KvCache], tmp_path: Path
) -> None:
    cache = opened()
    cache.keep(1, prefix(PROMPT[:63], computed(model, PROMPT[:63])), salt="", session="")
    cache.keep(2, prefix(PROMPT[:200], computed(model, PROMPT[:200])), salt="", session="")
    again = restarted(opened, cache)

    again.keep(3, prefix(PROMPT[:220], computed(model, PROMPT[:220])), salt="", session="")
    last = restarted(opened, again)

    assert fetched(last, [*PROMPT, 5]).shared_tokens == 200
    assert len(list((tmp_path / "kv").glob("*.kv"))) == 1


# Models whose caches are not plain


def tiny(name: str) -> Any:
    """Make a small model with random weights of an architecture with other caches."""
    from mlx_lm.models import falcon_h1, gemma3_text, lfm2

    mx.random.seed(3)
    if name == "windows":
        arguments = gemma3_text.ModelArgs(
            model_type="gemma3_text", hidden_size=64, num_hidden_layers=3, intermediate_size=64,
            num_attention_heads=2, head_dim=32, rms_norm_eps=1e-5, vocab_size=1000, num_key_value_heads=1,
            sliding_window=80, sliding_window_pattern=3,
        )  # fmt: skip
        return gemma3_text.Model(arguments)
    if name == "recurrent":
        arguments = lfm2.ModelArgs(
            model_type="lfm2", vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=4096, norm_eps=1e-5, conv_bias=False,
            conv_L_cache=3, block_dim=64, block_ff_dim=64, block_multiple_of=32, block_ffn_dim_multiplier=1.0,
            block_auto_adjust_ff_dim=False, rope_theta=10000.0, full_attn_idxs=[1],
        )  # fmt: skip
        return lfm2.Model(arguments)
    arguments = falcon_h1.ModelArgs(
        hidden_size=64, num_hidden_layers=2, vocab_size=1000, head_dim=32, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=64, mamba_d_ssm=64, mamba_d_head=16, mamba_n_heads=4,
        mamba_d_state=8,
    )  # fmt: skip
    return falcon_h1.Model(arguments)


@pytest.mark.parametrize("name", ["windows", "recurrent", "both side by side"])
@pytest.mark.parametrize("count", [70, 300])
def test_windows_and_recurrent_states_come_back_whole(
    opened: Callable[..., KvCache], name: str, count: int
) -> None:
    model = tiny(name)
    codec = KvFiles(model, identity=name)
    cache = opened(codec)
    held = computed(model, PROMPT[:count])
    answer(model, held, [5], 3)
    tokens = [*PROMPT[:count], 5, *answer(model, computed(model, PROMPT[:count]), [5], 2)]
    cache.keep(1, prefix(tokens, held), salt="", session="")

    hit = fetched(restarted(opened, cache, with_codec=codec), [*tokens, 5, 6])

    assert hit.shared_tokens == len(tokens)
    assert hit.entry.is_trimmable == codec.is_trimmable(held)
    assert answer(model, hit.entry.payload, [7], 8) == answer(model, held, [7], 8)


def test_what_cannot_be_cut_is_not_fetched_for_a_part(opened: Callable[..., KvCache]) -> None:
    model = tiny("recurrent")
    codec = KvFiles(model, identity="recurrent")
    cache = opened(codec)
    cache.keep(1, prefix(PROMPT, computed(model, PROMPT)), salt="", session="")

    again = restarted(opened, cache, with_codec=codec)

    assert fetched(again, [*PROMPT[:200], 5]) is None
    assert fetched(again, PROMPT) is None
    assert fetched(again, [*PROMPT, 5]).shared_tokens == len(PROMPT)


def test_caches_whose_form_is_not_known_are_not_stored(model: Any, codec: KvFiles) -> None:
    held = computed(model, PROMPT)
    padded = ArraysCache(1, left_padding=[1])
    padded[0] = mx.zeros((1, 4))

    assert codec.encode(held) is not None
    assert codec.encode([part.to_quantized(group_size=32, bits=8) for part in held]) is None
    assert codec.encode([*held, padded]) is None
    assert codec.encode([CacheList(held[0], padded)]) is None


def test_the_states_of_mlx_lms_caches_are_what_the_codec_takes_them_for() -> None:
    keys, values = mx.zeros((1, 2, 5, 8)), mx.ones((1, 2, 5, 8))
    plain, window, recurrent = KVCache(), RotatingKVCache(max_size=9, keep=1), ArraysCache(2)
    for part in (plain, window):
        part.update_and_fetch(keys, values)
    recurrent[1] = keys

    assert plain.state[2:] == (5,)
    assert window.state[2:] == (5, 1, 9, 5)
    assert (recurrent.state[0][0], recurrent.state[1:]) == (None, (None, None))
    for part in (plain, window, recurrent):
        assert type(part).from_state(part.state).state[2:] == part.state[2:]
    assert [held.shape[2] >= 5 for held in plain.state[:2]] == [True, True]


# Whatever else lies in the folder


def edited(data: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Change what a file says of itself, and make it look whole."""
    document, tokens, payload = parts(data)
    edit(document)
    return signed(document, tokens, payload)


def laid_out(data: bytes, edit: Callable[[list[dict[str, Any]]], object]) -> bytes:
    """Change what a file says of its layers, and make it look whole."""

    def edit_layout(document: dict[str, Any]) -> None:
        layers = json.loads(document["__metadata__"]["layout"])
        edit(layers)
        document["__metadata__"]["layout"] = json.dumps(layers)

    return edited(data, edit_layout)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x01
    return bytes(changed)


def said(**fields: object) -> Callable[[bytes], bytes]:
    return lambda data: edited(data, lambda document: document["__metadata__"].update(fields))


def tensor(name: str, **fields: object) -> Callable[[bytes], bytes]:
    return lambda data: edited(data, lambda document: document[name].update(fields))


def other_tokens(data: bytes) -> bytes:
    document, tokens, payload = parts(data)
    return signed(document, flipped(tokens, 0), payload)


def no_tokens(data: bytes) -> bytes:
    document, tokens, payload = parts(data)
    for each in (each for name, each in document.items() if name != "__metadata__"):
        each["data_offsets"] = [max(0, at - len(tokens)) for at in each["data_offsets"]]
    document["tokens"]["shape"] = [0]
    return signed(document, b"", payload)


def swapped_halves(data: bytes) -> bytes:
    """Say that a tensor of (1, heads, tokens, size) is (1, heads, size, tokens)."""
    document, tokens, payload = parts(data)
    shape = document["0"]["shape"]
    document["0"]["shape"] = [*shape[:2], shape[3], shape[2]]
    return signed(document, tokens, payload)


def header_end(data: bytes) -> int:
    return 8 + int(struct.unpack_from("<Q", data)[0])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda data: data[:1],
    "cut in its header": lambda data: data[:100],
    "cut in its tokens": lambda data: data[: header_end(data) + 40],
    "cut in its payload": lambda data: data[: len(data) // 2],
    "one byte missing": lambda data: data[:-1],
    "one byte more": lambda data: data + b"x",
    "flipped in its length": lambda data: flipped(data, 3),
    "flipped in its header": lambda data: flipped(data, data.index(b"KVCache")),
    "flipped in its tokens": lambda data: flipped(data, header_end(data) + 40),
    "flipped in its payload": lambda data: flipped(data, len(data) - 1000),
    "flipped in its checksum": lambda data: flipped(data, len(data) - 1),
    "a header of 2^63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "a header of the whole file": lambda data: struct.pack("<Q", len(data) - 8) + data[8:],
    "not our format": said(format="something"),
    "another version": said(format="wicketgate-kv/2"),
    "made for another model": said(fingerprint="0" * 16),
    "another salt": said(salt="0" * 32),
    "a field that is none of ours": said(more="x"),
    "nan for metadata": lambda data: edited(
        data, lambda document: document.update(__metadata__=float("nan"))
    ),
    "no metadata": lambda data: edited(data, lambda document: document.pop("__metadata__")),
    "tokens that are not those of its name": other_tokens,
    "no tokens": no_tokens,
    "tokens of another type": tensor("tokens", dtype="U32"),
    "a negative size": tensor("0", shape=[1, -2, 300, 32]),
    "an enormous size": tensor("0", shape=[1, 2**40, 2**40, 32]),
    "a fraction for a size": tensor("0", shape=[1, 2.5, 300, 32]),
    "an unknown type": tensor("0", dtype="F8_E4M3"),
    "a tensor over another": tensor("1", data_offsets=[0, 8]),
    "a tensor missing": lambda data: edited(data, lambda document: document.pop("3")),
    "another shape of the same size": swapped_halves,
    "a layer missing": lambda data: laid_out(data, lambda layers: layers.pop()),
    "a class that is none of mlx-lm's": lambda data: laid_out(
        data, lambda layers: layers[0].update(kind="os.system")
    ),
    "another class of mlx-lm's": lambda data: laid_out(
        data, lambda layers: layers[0].update(kind="RotatingKVCache", numbers=[300, 0, 300, 0])
    ),
    "another number of tokens in a layer": lambda data: laid_out(
        data, lambda layers: layers[0].update(numbers=[299])
    ),
    "a tensor used twice": lambda data: laid_out(
        data, lambda layers: layers[0].update(arrays=[["plain", 0], ["plain", 0]])
    ),
    "a tensor of another number": lambda data: laid_out(
        data, lambda layers: layers[0].update(arrays=[["plain", -1], ["plain", 99]])
    ),
    "packed by zero": lambda data: laid_out(
        data, lambda layers: layers[0].update(arrays=[["packed", 0, 0], ["plain", 1]])
    ),
    "an array missing": lambda data: laid_out(
        data, lambda layers: layers[0].update(arrays=[None, ["plain", 0]])
    ),
    "a layout that is no JSON": said(layout="{"),
    "JSON": lambda _: json.dumps({"hello": ["world"] * 50}).encode(),
    "pickle": lambda _: pickle.dumps({"tokens": list(range(100))}),
    "noise": lambda data: hashlib.shake_128(b"seed").digest(len(data)),
}


WHY: dict[str, list[str]] = {
    "it is too short": ["empty", "one byte"],
    "its header claims": [
        "cut in its header",
        "flipped in its length",
        "a header of 2^63 bytes",
        "JSON",
        "pickle",
        "noise",
    ],
    "its header is none of ours": [
        "a header of the whole file",
        "a field that is none of ours",
        "nan for metadata",
        "no metadata",
        "a fraction for a size",
    ],
    "it has another format": ["not our format", "another version"],
    "its tensors are none of ours": ["a tensor missing"],
    "its tensors do not add up": [
        "cut in its tokens",
        "cut in its payload",
        "one byte missing",
        "one byte more",
        "no tokens",
        "tokens of another type",
    ],
    "a tensor has a type or a shape that cannot be": ["a negative size", "an unknown type"],
    "a tensor is not where it belongs": ["an enormous size", "a tensor over another"],
    "the checksum of its header is wrong": ["flipped in its header", "flipped in its tokens"],
    "the checksum of its payload is wrong": ["flipped in its payload", "flipped in its checksum"],
    "it was made for another model or by another version": ["made for another model"],
    "its tokens are not those of its name": ["another salt", "tokens that are not those of its name"],
    "its layout is none of ours": ["a layout that is no JSON"],
    "it has 2 layers": ["a layer missing"],
    "a layer is of another kind": ["a class that is none of mlx-lm's", "another class of mlx-lm's"],
    "a layer holds another number of tokens": ["another number of tokens in a layer"],
    "an array has another type or shape": [
        "another shape of the same size",
        "a tensor used twice",
        "a tensor of another number",
    ],
    "an array is packed otherwise": ["packed by zero"],
    "an array is missing": ["an array missing"],
}


@pytest.fixture(scope="module")
def good(model: Any, codec: KvFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Write one good file and return its name and what is in it."""
    folder = tmp_path_factory.mktemp("good")
    shelf_of(codec, folder).store(entry(PROMPT, computed(model, PROMPT)), ignore)
    (file,) = (folder / "kv").glob("*.kv")
    return file.name, file.read_bytes()


@pytest.fixture
def stored(good: tuple[str, bytes], tmp_path: Path) -> Path:
    """Return a good file in a folder of its own."""
    name, data = good
    file = tmp_path / "kv" / name
    file.parent.mkdir(mode=0o700)
    file.touch(mode=0o600)
    file.write_bytes(data)
    return file


def shelf_of(codec: Any, tmp_path: Path) -> KvShelf:
    shelf = KvShelf(tmp_path / "kv", codec, max_bytes=MAX_BYTES)
    shelf.open()
    return shelf


def fetch_of(shelf: KvShelf) -> Any:
    found = shelf.match([*PROMPT, 5], salt="")
    return shelf.fetch(found[0], ignore) if found else None


@pytest.mark.parametrize(("kind", "why"), [(kind, why) for why, kinds in WHY.items() for kind in kinds])
def test_a_damaged_or_foreign_file_is_ignored_with_one_line(
    stored: Path, codec: KvFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, why: str
) -> None:
    good = stored.read_bytes()
    bad = DAMAGE[kind](good)
    assert bad != good
    stored.write_bytes(bad)

    for _ in range(2):
        assert fetch_of(shelf_of(codec, tmp_path)) is None

    assert lines(caplog) == ["kv_file_ignored"]
    assert (tmp_path / "kv" / "bad" / stored.name).read_bytes() == bad
    assert caplog.records[0].reason.startswith(why)


def test_the_same_file_undamaged_is_loaded(stored: Path, codec: KvFiles, tmp_path: Path) -> None:
    stored.write_bytes(edited(stored.read_bytes(), lambda _: None))

    assert fetch_of(shelf_of(codec, tmp_path)) is not None


def replaced_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replaced_by_link(file: Path) -> None:
    target = file.rename(file.parent.parent / "target")
    file.symlink_to(target)


def replaced_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def replaced_by_other_safetensors(file: Path) -> None:
    other = file.with_suffix(".safetensors")
    mx.save_safetensors(str(other), {"weight": mx.ones((8, 8))}, {"format": "mlx"})
    other.rename(file)
    file.chmod(0o600)


def replaced_by_holes(file: Path) -> None:
    with file.open("wb") as held:
        held.truncate(2**40)


REPLACED: dict[str, Callable[[Path], object]] = {
    "a folder": replaced_by_folder,
    "a link": replaced_by_link,
    "a pipe": replaced_by_pipe,
    "safetensors of something else": replaced_by_other_safetensors,
    "a terabyte of holes": replaced_by_holes,
    "not to be read": lambda file: file.chmod(0o000),
    "for all to write": lambda file: file.chmod(0o666),
    "a name that is none of ours": lambda file: file.rename(file.with_name("prompt-cache.safetensors")),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_what_is_no_file_of_ours_is_ignored_with_one_line(
    stored: Path, codec: KvFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    REPLACED[kind](stored)

    shelf = shelf_of(codec, tmp_path)
    assert fetch_of(shelf) is None
    assert lines(caplog) == ["kv_file_ignored"]
    assert shelf.rejected_files == 1


def test_every_kind_of_damage_is_tried() -> None:
    tried = [kind for kinds in WHY.values() for kind in kinds]

    assert sorted(tried) == sorted(DAMAGE)
    assert len(tried) >= 20


def test_a_model_is_known_by_its_files(demo_model: Path, tmp_path: Path) -> None:
    for file in demo_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        os.utime(tmp_path / file.name, (1000.0, 1000.0))
    first = model_identity(tmp_path)
    weights = tmp_path / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, (1000.0, 1000.0))

    assert model_identity(tmp_path) != first


def test_a_fingerprint_tells_models_and_forms_apart(model: Any) -> None:
    made = [
        KvFiles(model, identity="a"),
        KvFiles(model, identity="b"),
        KvFiles(model, identity="a", bits=8),
        KvFiles(tiny("windows"), identity="a"),
    ]

    assert len({codec.fingerprint for codec in made}) == 4
    assert made[0].fingerprint == KvFiles(model, identity="a").fingerprint
