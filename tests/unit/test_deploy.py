"""Pins the service files: programs and options that exist, time enough to drain, files enough to serve."""

from __future__ import annotations

import plistlib
import subprocess
from configparser import RawConfigParser
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT
from tests.unit.test_docs import read
from wicketgate.cli.commands import COMMANDS
from wicketgate.config import RuntimeConfig
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

DRAIN_S = RuntimeConfig().server.drain_timeout_s
PLIST = "deploy/launchd/dev.wicketgate.serve.plist"
UNIT = "deploy/systemd/wicketgate.service"


@pytest.fixture
def plist() -> dict[str, Any]:
    return plistlib.loads((ROOT / PLIST).read_bytes())


@pytest.fixture
def service() -> dict[str, str]:
    parser = RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(read(UNIT))
    return dict(parser["Service"])


def test_the_agent_has_the_keys_that_a_server_needs(plist: dict[str, Any]) -> None:
    assert plist["RunAtLoad"] is True
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert plist["ThrottleInterval"] == 10
    assert plist["ProcessType"] == "Interactive"
    assert plist["SoftResourceLimits"]["NumberOfFiles"] >= 10_240
    assert plist["StandardErrorPath"].endswith("/Library/Logs/wicketgate/serve.log")


def test_the_agent_is_named_as_its_file(plist: dict[str, Any]) -> None:
    assert f"deploy/launchd/{plist['Label']}.plist" == PLIST


def test_the_agents_program_is_a_command_with_its_options(plist: dict[str, Any]) -> None:
    program, *words = plist["ProgramArguments"]

    assert program.endswith("/.venv/bin/wicketgate")
    assert COMMANDS["serve"].parser("serve").parse_args(words[1:]).config.endswith("/runtime.yaml")


def test_the_page_on_deployment_fills_in_every_placeholder_of_the_agent(plist: dict[str, Any]) -> None:
    filled = (ROOT / PLIST).read_text().replace("__WICKETGATE__", "/w").replace("__HOME__", "/h")

    paths = [*plistlib.loads(filled.encode())["ProgramArguments"][::3], plist["WorkingDirectory"]]

    assert paths == ["/w/.venv/bin/wicketgate", "/w/runtime.yaml", "__WICKETGATE__"]
    assert 's|__WICKETGATE__|$PWD|g" -e "s|__HOME__|$HOME|g' in read("docs/deployment.md")


def test_both_services_leave_time_to_drain(plist: dict[str, Any], service: dict[str, str]) -> None:
    assert plist["ExitTimeOut"] >= DRAIN_S + 15
    assert int(service["TimeoutStopSec"]) >= DRAIN_S + 15


def test_the_unit_starts_a_command_with_its_options(service: dict[str, str]) -> None:
    program, command, *words = service["ExecStart"].split()

    assert program.startswith("/")
    assert COMMANDS[command].parser(command).parse_args(words).state_dir == "/var/lib/wicketgate"


def test_the_unit_does_not_start_again_what_cannot_start(service: dict[str, str]) -> None:
    codes = {int(code) for code in service["RestartPreventExitStatus"].split()}

    assert codes == {ExitCode.USAGE, ExitCode.REFUSED}
    assert service["Restart"] == "on-failure"


def test_the_unit_signals_the_gateway_alone_and_allows_many_files(service: dict[str, str]) -> None:
    assert service["KillMode"] == "mixed"
    assert int(service["LimitNOFILE"]) >= 10_240


@pytest.mark.needs("systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "wicketgate"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "wicketgate.service"
    unit.write_text(read(UNIT).replace("/opt/wicketgate/.venv/bin/wicketgate", str(program)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30
    )

    ours = [line for line in done.stderr.splitlines() if "wicketgate.service" in line]
    assert ours == []
