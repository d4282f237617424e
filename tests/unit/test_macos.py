"""Pins what macOS's libraries and tools are asked, and that whatever goes wrong there is None and never 0."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from wicketgate.macos import Mac, crash_reports, open_library

if TYPE_CHECKING:
    from pathlib import Path


class FakeLibrary:
    """Answers as macOS's C libraries do, into the caller's memory; what is not set up is missing."""

    def __init__(self, **functions: Any) -> None:
        self.__dict__.update(functions)


def rusage(*, footprint: int, code: int = 0) -> FakeLibrary:
    def proc_pid_rusage(pid: int, flavour: int, buffer: Any) -> int:
        assert flavour == 4
        assert len(buffer) == 512
        if code:
            return code
        # uuid, user, system, wakeups (2), page-ins, wired, resident, footprint
        data = struct.pack("=16s8Q", b"u" * 16, 1, 2, 3, 4, 5, 6, 7, footprint)
        ctypes.memmove(buffer, data, len(data))
        return 0

    return FakeLibrary(proc_pid_rusage=proc_pid_rusage)


def kernel(**values: bytes) -> FakeLibrary:
    """Make a kernel that keeps these values, by name with `__` for a point."""

    def sysctlbyname(name: bytes, old: Any, length: Any, new: None, new_length: ctypes.c_size_t) -> int:
        value = values.get(name.decode().replace(".", "__"))
        size = length._obj
        if value is None or len(value) > size.value:
            return -1
        ctypes.memmove(old, value, len(value))
        size.value = len(value)
        return 0

    return FakeLibrary(sysctlbyname=sysctlbyname)


def notifications(*, state: int, register: int = 0, get: int = 0) -> FakeLibrary:
    def notify_register_check(name: bytes, token: Any) -> int:
        assert name == b"com.apple.system.thermalpressurelevel"
        token._obj.value = 7
        return register

    def notify_get_state(token: ctypes.c_int, value: Any) -> int:
        assert token.value == 7
        value._obj.value = state
        return get

    library = FakeLibrary(
        notify_register_check=notify_register_check, notify_get_state=notify_get_state, cancelled=[]
    )
    library.__dict__["notify_cancel"] = lambda token: library.cancelled.append(token.value) or 0
    return library


def mac(*, system: Any = None, processes: Any = None, prints: str | None = None) -> Mac:
    return Mac(system=system, processes=processes, run=lambda command: prints)


# Memory


def test_the_footprint_is_the_number_at_byte_72() -> None:
    assert mac(processes=rusage(footprint=123_456_789)).footprint_bytes(42) == 123_456_789


@pytest.mark.parametrize("library", [None, FakeLibrary(), rusage(footprint=1, code=-1), rusage(footprint=0)])
def test_a_footprint_that_cannot_be_read_is_none(library: Any) -> None:
    assert mac(processes=library).footprint_bytes(42) is None


@pytest.mark.parametrize(("raw", "level"), [(1, 0), (2, 1), (4, 2), (3, None), (0, None)])
def test_the_pressure_is_normal_warning_or_critical(raw: int, level: int | None) -> None:
    library = kernel(kern__memorystatus_vm_pressure_level=struct.pack("=i", raw))

    assert mac(system=library).memory_pressure() == level


@pytest.mark.parametrize("library", [None, FakeLibrary(), kernel()])
def test_a_pressure_that_cannot_be_read_is_none(library: Any) -> None:
    assert mac(system=library).memory_pressure() is None


def test_a_pressure_of_the_wrong_size_is_none() -> None:
    assert mac(system=kernel(kern__memorystatus_vm_pressure_level=b"\1\0")).memory_pressure() is None


def test_used_swap_is_the_third_number() -> None:
    library = kernel(vm__swapusage=struct.pack("=QQQIi", 10, 7, 3, 16384, 1))

    assert mac(system=library).swap_used_bytes() == 3


def test_no_swap_in_use_is_a_figure_of_its_own() -> None:
    library = kernel(vm__swapusage=struct.pack("=QQQIi", 0, 0, 0, 16384, 1))

    assert mac(system=library).swap_used_bytes() == 0


@pytest.mark.parametrize("library", [None, kernel(), kernel(vm__swapusage=b"\0" * 24)])
def test_swap_that_cannot_be_read_is_none(library: Any) -> None:
    assert mac(system=library).swap_used_bytes() is None


@pytest.mark.parametrize("data", [struct.pack("=i", 24_576), struct.pack("=q", 24_576)])
def test_a_number_of_the_kernel_has_4_or_8_bytes(data: bytes) -> None:
    assert mac(system=kernel(iogpu__wired_limit_mb=data)).wired_limit_mb() == 24_576


def test_the_chip_is_named_by_the_kernel() -> None:
    library = kernel(machdep__cpu__brand_string=b"Apple M4 Max\0")

    assert mac(system=library).chip() == "Apple M4 Max"


@pytest.mark.parametrize("library", [None, kernel(), kernel(machdep__cpu__brand_string=b"\0")])
def test_a_chip_without_a_name_is_none(library: Any) -> None:
    assert mac(system=library).chip() is None


@pytest.mark.parametrize(
    ("library", "translated"),
    [
        (kernel(sysctl__proc_translated=struct.pack("=i", 1)), True),
        (kernel(sysctl__proc_translated=struct.pack("=i", 0)), False),
        (kernel(), None),
    ],
)
def test_rosetta_is_told_by_the_kernel(library: Any, translated: bool | None) -> None:
    assert mac(system=library).is_translated() is translated


def test_a_library_that_is_not_there_is_none() -> None:
    assert open_library("/nowhere/libNothing.dylib") is None


def test_a_library_that_is_there_is_opened() -> None:
    ours = ctypes.util.find_library("c")
    assert ours is not None

    assert open_library(ours) is not None


# Heat, power, priority


@pytest.mark.parametrize("level", range(5))
def test_the_thermal_level_is_the_state_of_its_notification(level: int) -> None:
    library = notifications(state=level)

    assert mac(system=library).thermal_level() == level
    assert library.cancelled == [7]


@pytest.mark.parametrize(
    "library",
    [
        None,
        FakeLibrary(),
        notifications(state=1, register=1),
        notifications(state=1, get=1),
        notifications(state=5),
    ],
)
def test_a_thermal_level_that_cannot_be_read_is_none(library: Any) -> None:
    assert mac(system=library).thermal_level() is None


PMSET = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 {name}         {value}
 displaysleep         10
"""


@pytest.mark.parametrize(
    ("name", "value", "mode"),
    [
        ("lowpowermode", 0, "automatic"),
        ("lowpowermode", 1, "low"),
        ("powermode", 0, "automatic"),
        ("powermode", 1, "low"),
        ("powermode", 2, "high"),
        ("powermode", 3, None),
        ("gpuswitch", 2, None),
    ],
)
def test_the_power_mode_is_read_from_pmset(name: str, value: int, mode: str | None) -> None:
    assert mac(prints=PMSET.format(name=name, value=value)).power_mode() == mode


def test_a_power_mode_that_pmset_does_not_tell_is_none() -> None:
    assert mac(prints=None).power_mode() is None


def test_the_cores_of_the_gpu_are_read_from_ioreg() -> None:
    text = '+-o AGXAcceleratorG16X  <class AGXAcceleratorG16X>\n    {\n      "gpu-core-count" = 40\n    }\n'

    assert mac(prints=text).gpu_cores() == 40
    assert mac(prints="").gpu_cores() is None
    assert mac(prints=None).gpu_cores() is None


def test_a_threads_quality_is_asked_for() -> None:
    asked: list[tuple[int, int]] = []
    library = FakeLibrary(
        pthread_set_qos_class_self_np=lambda quality, relative: asked.append((quality, relative)) or 0
    )

    granted = mac(system=library).prefer_this_thread()

    assert granted
    assert asked == [(0x19, 0)]


@pytest.mark.parametrize(
    "library", [None, FakeLibrary(), FakeLibrary(pthread_set_qos_class_self_np=lambda *_: errno.EPERM)]
)
def test_a_threads_quality_may_not_be_granted(library: Any) -> None:
    assert not mac(system=library).prefer_this_thread()


# launchd


class FakeLaunchd(FakeLibrary):
    """Hands out its sockets once, as launchd does; outside of it ESRCH."""

    def __init__(self, sockets: dict[bytes, list[int]] | None) -> None:
        super().__init__()
        self.sockets = sockets
        self.taken: set[bytes] = set()
        self.freed = 0
        self.memory: Any = None

    def launch_activate_socket(self, name: bytes, array: Any, count: Any) -> int:
        if self.sockets is None:
            return errno.ESRCH
        if name not in self.sockets:
            return errno.ENOENT
        if name in self.taken:
            return errno.EALREADY
        self.taken.add(name)
        descriptors = self.sockets[name]
        self.memory = (ctypes.c_int * len(descriptors))(*descriptors)
        ctypes.memmove(array, ctypes.byref(ctypes.pointer(self.memory)), ctypes.sizeof(ctypes.c_void_p))
        count._obj.value = len(descriptors)
        return 0

    def free(self, array: Any) -> int:
        self.freed += 1
        return 0


def test_the_sockets_of_launchd_are_taken_and_their_array_is_freed() -> None:
    launchd = FakeLaunchd({b"Listeners": [5, 9]})

    assert mac(system=launchd).activated_sockets("Listeners") == [5, 9]
    assert launchd.freed == 1


@pytest.mark.parametrize("library", [None, FakeLibrary(), FakeLaunchd(None), FakeLaunchd({b"Other": [5]})])
def test_without_launchd_or_the_key_there_are_no_sockets(library: Any) -> None:
    assert mac(system=library).activated_sockets("Listeners") is None


def test_sockets_that_were_taken_before_are_an_error_and_not_none() -> None:
    launchd = FakeLaunchd({b"Listeners": [5]})
    mac(system=launchd).activated_sockets("Listeners")

    with pytest.raises(OSError, match="the sockets Listeners were taken before"):
        mac(system=launchd).activated_sockets("Listeners")


# Reports of the system


def test_the_reports_of_the_last_days_are_named_newest_first(tmp_path: Path) -> None:
    ages = {
        "Kernel-1.panic": 50,
        "gpuEvent-2.ips": 40,
        "python3.11-3.ips": 30,
        "Safari-4.ips": 20,
        "a.panic": 5,
    }
    for name, at_unix_s in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at_unix_s, at_unix_s))

    names = crash_reports([tmp_path / "missing", tmp_path], since_unix_s=10.0)

    assert names == ("Kernel-1.panic", "gpuEvent-2.ips", "python3.11-3.ips")


def test_at_most_five_reports_are_named(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"JetsamEvent-{number}.ips").touch()

    assert len(crash_reports([tmp_path], since_unix_s=0.0)) == 5


def test_a_report_that_is_gone_when_it_is_looked_at_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "gone.panic").symlink_to(tmp_path / "nowhere")

    assert crash_reports([tmp_path], since_unix_s=0.0) == ()
