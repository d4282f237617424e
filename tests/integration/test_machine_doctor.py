"""Pins that `wicketgate doctor` reads this machine, its mlx and its models, and exits accordingly."""

from __future__ import annotations

import json
import struct
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from wicketgate.cli.doctor import ask_mlx, read_model, run

if TYPE_CHECKING:
    from pathlib import Path

MODEL = ROOT / "wicketgate" / "demo" / "model"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder, with no configuration named in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WICKETGATE_CONFIG", raising=False)
    return tmp_path


def options(place: Path, *, config: str | None = None, as_json: bool = False) -> Namespace:
    return Namespace(config=config, state_dir=str(place / "state"), json=as_json, color="never")


def test_this_machine_is_described_with_the_model_of_the_configuration(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "runtime.yaml").write_text(f"model: {MODEL}\n")

    code = run(options(place, as_json=True))

    report = json.loads(capsys.readouterr().out)
    (model,) = report["facts"]["models"]
    assert code == (0 if report["ok"] else 8)
    assert report["schema"] == "wicketgate.doctor/1"
    assert report["facts"]["mlx_failure"] == ""
    assert model["size"]["parameters"] == 1_402_560
    assert "model model" in {finding["name"] for finding in report["findings"]}


def test_a_model_that_does_not_fit_ends_with_8_and_the_arithmetic(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"model: {MODEL}\nengine:\n  memory:\n    max_bytes: 16MiB\n"
    (place / "runtime.yaml").write_text(settings)
    heavy = place / "heavy"
    heavy.mkdir()
    (heavy / "config.json").write_text("{}")
    (heavy / "model.safetensors").write_bytes(safetensors({"a": {"dtype": "F32", "shape": [8 << 20]}}))
    (place / "runtime.yaml").write_text(settings.replace(str(MODEL), str(heavy)))

    code = run(options(place))

    assert code == 8
    assert "32.0 MiB of weights" in capsys.readouterr().out


def test_a_configuration_that_is_wrong_is_said_and_left_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "runtime.yaml").write_text("nonsense: 1\n")

    run(options(place))

    printed = capsys.readouterr()
    assert "runtime.yaml is left out" in printed.err
    assert "finding" in printed.out


def test_without_a_configuration_the_machine_alone_is_looked_at(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(options(place, as_json=True))

    assert json.loads(capsys.readouterr().out)["facts"]["models"] == []


def safetensors(header: dict[str, object]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "model.safetensors is cut off"),
        (struct.pack("<Q", 1 << 60), "is no .safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "is no .safetensors file"),
        (struct.pack("<Q", 7) + b'{"a":1}', "is no .safetensors file"),
        (struct.pack("<Q", 9) + b"{", "cannot be read"),
    ],
)
def test_damaged_weights_are_a_message_and_no_crash(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)

    facts = read_model("damaged", str(tmp_path))

    assert facts.size is None
    assert reason in facts.message


def test_a_folder_without_weights_is_said_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert "holds no .safetensors file" in read_model("empty", str(tmp_path)).message


def test_a_model_of_the_hub_that_was_never_fetched_is_not_fetched_now() -> None:
    facts = read_model("never", "wicketgate-tests/never-fetched")

    assert facts.size is None
    assert facts.message == "wicketgate-tests/never-fetched is not on this machine yet"


def test_a_child_in_which_mlx_dies_is_a_finding() -> None:
    failure, recommended = ask_mlx([sys.executable, "-c", "raise SystemExit('ImportError: no Metal')"])

    assert failure == "ImportError: no Metal"
    assert recommended is None


def test_a_child_that_says_nothing_is_told_by_its_exit_code() -> None:
    failure, _ = ask_mlx([sys.executable, "-c", "import os; os.abort()"])

    assert failure == "exit code -6"


def test_a_device_that_computes_wrongly_is_found_out() -> None:
    told = json.dumps({"device": {}, "has_gpu": True, "works": False})

    failure, _ = ask_mlx([sys.executable, "-c", f"print({told!r})"])

    assert failure == "it computes a wrong product"


def test_what_the_gpu_recommends_is_read_from_mlx() -> None:
    device = {"max_recommended_working_set_size": 5_000}
    told = json.dumps({"device": device, "has_gpu": True, "works": True})

    assert ask_mlx([sys.executable, "-c", f"print({told!r})"]) == ("", 5_000)


def test_a_program_that_is_not_there_is_a_finding() -> None:
    assert "No such file" in ask_mlx(["/nowhere/python"])[0]
