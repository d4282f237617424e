"""Pins how the end of a host is told apart and put into words."""

from __future__ import annotations

import pytest

from wicketgate.engine.exits import BY_GPU, End, Exit, classify, in_words, is_leaked_memory, signal_name

TIMEOUT = (
    "DeviceError: [METAL] Command buffer execution failed: Caused GPU Timeout Error"
    " (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
)
LOAD_MEMORY = (
    "RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory"
    " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)

ENDS = [
    (Exit(was_ready=True, code=0, stopping=True), End.CLEAN, "it ended with exit code 0"),
    (
        Exit(given_up="stopped while it was starting", stopping=True),
        End.CLEAN,
        "stopped while it was starting",
    ),
    (
        Exit(was_ready=True, code=-9, doing="decode"),
        End.SIGNALLED,
        "it was killed from outside (SIGKILL, perhaps by the system for want of memory) in decode",
    ),
    (Exit(was_ready=True, code=-15), End.SIGNALLED, "it was killed from outside (SIGTERM)"),
    (Exit(was_ready=True, code=-6, doing="prefill"), End.ABORTED, "it aborted (SIGABRT) in prefill"),
    (Exit(was_ready=True, code=-11), End.CRASHED, "it crashed (SIGSEGV)"),
    (Exit(was_ready=True, code=0), End.FAILED, "it ended with exit code 0"),
    (Exit(was_ready=True, code=3, doing="decode"), End.FAILED, "it ended with exit code 3 in decode"),
    (Exit(was_ready=True), End.FAILED, "it would not end"),
    (
        Exit(was_ready=True, fatal=TIMEOUT, code=1, doing="prefill"),
        End.DEVICE_FAILED,
        "Metal timeout in prefill",
    ),
    (
        Exit(was_ready=True, fatal="DeviceError: [METAL] Command buffer execution failed: GPU Hang", code=1),
        End.DEVICE_FAILED,
        "GPU hang",
    ),
    (
        Exit(was_ready=True, fatal="DeviceError: [METAL] something new", code=1, doing="decode"),
        End.DEVICE_FAILED,
        "DeviceError: [METAL] something new in decode",
    ),
    (Exit(was_ready=True, fatal="DeviceError: lost", code=1), End.DEVICE_FAILED, "DeviceError: lost"),
    (Exit(was_ready=True, fatal="KeyError: 1", code=1), End.FAILED, "KeyError: 1"),
    (
        Exit(was_ready=True, given_up="the gateway let go of it", code=-9),
        End.FAILED,
        "the gateway let go of it",
    ),
    (Exit(was_ready=True, silence_s=2.34, code=-9, doing="decode"), End.FROZEN, "frozen for 2.3 s in decode"),
    (
        Exit(was_ready=True, silence_s=2.0, is_suspended=True, code=-9),
        End.SIGNALLED,
        "stopped by a signal from outside for 2.0 s",
    ),
    (Exit(code=-11), End.LOAD_FAILED, "it crashed (SIGSEGV) while it loaded the model"),
    (Exit(given_up="not ready within 60 s", code=-9), End.LOAD_FAILED, "not ready within 60 s"),
    (
        Exit(fatal=LOAD_MEMORY, code=1),
        End.LOAD_OUT_OF_MEMORY,
        "Metal ran out of memory while it loaded the model",
    ),
    (Exit(fatal="MemoryError: ", code=1), End.LOAD_OUT_OF_MEMORY, "MemoryError: "),
]


@pytest.mark.parametrize(("ended", "end", "words"), ENDS, ids=[words for _, _, words in ENDS])
def test_each_end_has_its_kind_and_its_words(ended: Exit, end: End, words: str) -> None:
    assert classify(ended) is end
    assert in_words(ended) == words


def test_a_signal_from_outside_is_never_the_gpus() -> None:
    assert not {End.SIGNALLED, End.CRASHED, End.FAILED, End.CLEAN} & BY_GPU


def test_a_signal_without_a_name_is_a_number() -> None:
    assert signal_name(250) == "signal 250"


@pytest.mark.parametrize(
    ("was_ready", "fatal", "used_ratio", "leaked"),
    [
        (False, LOAD_MEMORY, 0.2, True),
        (False, "RuntimeError: [metal::malloc] Unable to allocate 5 bytes.", 0.2, True),
        (False, LOAD_MEMORY, 0.9, False),
        (False, LOAD_MEMORY, None, False),
        (False, "MemoryError: ", 0.2, False),
        (True, LOAD_MEMORY, 0.2, False),
    ],
)
def test_memory_that_a_gpu_refuses_though_nobody_uses_it_is_leaked(
    was_ready: bool, fatal: str, used_ratio: float | None, leaked: bool
) -> None:
    ended = Exit(was_ready=was_ready, fatal=fatal, code=1, used_ratio=used_ratio)

    assert is_leaked_memory(ended) is leaked
