"""Pins the service files: programs, options and probes that exist, time to drain, files enough to serve."""

from __future__ import annotations

import plistlib
import subprocess
from configparser import RawConfigParser
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.unit.test_docs import blocks, read
from wicketgate.api.health import ROUTES
from wicketgate.cli.commands import COMMANDS
from wicketgate.config import RuntimeConfig, load
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

DRAIN_S = RuntimeConfig().server.drain_timeout_s
PLIST = "deploy/launchd/dev.wicketgate.serve.plist"
UNIT = "deploy/systemd/wicketgate.service"
SOCKET = "deploy/systemd/wicketgate.socket"
DEPLOYMENT = "deploy/kubernetes/deployment.yaml"
MARGIN_S = 15


@pytest.fixture
def plist() -> dict[str, Any]:
    return plistlib.loads((ROOT / PLIST).read_bytes())


def section(path: str, name: str) -> dict[str, str]:
    """Return a section of a unit of systemd."""
    parser = RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(read(path))
    return dict(parser[name])


@pytest.fixture
def service() -> dict[str, str]:
    return section(UNIT, "Service")


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(read(DEPLOYMENT))["spec"]["template"]["spec"]
    return spec


def activated_socket() -> str | None:
    """Return what the page on deployment calls the socket that the system opens."""
    named = [block.text for block in blocks("docs/deployment.md", "yaml") if "activated_socket" in block.text]
    (text,) = named
    return load(ROOT / "docs" / "deployment.md", text=text).server.activated_socket


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
    assert plist["ExitTimeOut"] >= DRAIN_S + MARGIN_S
    assert int(service["TimeoutStopSec"]) >= DRAIN_S + MARGIN_S


def test_the_unit_starts_a_command_with_its_options(service: dict[str, str]) -> None:
    program, command, *words = service["ExecStart"].split()

    assert program.startswith("/")
    assert COMMANDS[command].parser(command).parse_args(words).state_dir == "/var/lib/wicketgate"


def test_the_unit_does_not_start_again_what_cannot_start(service: dict[str, str]) -> None:
    codes = {int(code) for code in service["RestartPreventExitStatus"].split()}

    assert codes == {ExitCode.USAGE, ExitCode.REFUSED}
    assert service["Restart"] == "on-failure"
    assert int(service["SuccessExitStatus"]) == ExitCode.TIMED_OUT


def test_the_unit_signals_the_gateway_alone_and_allows_many_files(service: dict[str, str]) -> None:
    assert service["KillMode"] == "mixed"
    assert int(service["LimitNOFILE"]) >= 10_240


@pytest.mark.needs("systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "wicketgate"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit, listener = tmp_path / "wicketgate.service", tmp_path / "wicketgate.socket"
    unit.write_text(read(UNIT).replace("/opt/wicketgate/.venv/bin/wicketgate", str(program)))
    listener.write_text(read(SOCKET))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit), str(listener)],
        capture_output=True,
        text=True,
        timeout=30,
    )

    ours = [line for line in done.stderr.splitlines() if "wicketgate." in line]
    assert ours == []


def test_the_socket_of_systemd_listens_where_the_server_would_under_the_name_of_the_page() -> None:
    socket = section(SOCKET, "Socket")

    assert socket["ListenStream"] == RuntimeConfig().server.bind
    assert int(socket["Backlog"]) == RuntimeConfig().server.backlog
    assert socket["FileDescriptorName"] == activated_socket()


def test_the_sockets_of_launchd_listen_where_the_server_would_under_the_name_of_the_page() -> None:
    (block,) = blocks("docs/deployment.md", "xml")

    agent = plistlib.loads(read(PLIST).replace("<dict>", f"<dict>{block.text}", 1).encode())

    ((name, socket),) = agent["Sockets"].items()
    assert name == activated_socket()
    assert f"{socket['SockNodeName']}:{socket['SockServiceName']}" == RuntimeConfig().server.bind


def test_the_probes_of_the_cluster_ask_routes_of_health_on_the_servers_port(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    port = int(RuntimeConfig().server.bind.rpartition(":")[2])

    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}

    assert {get["path"] for get in asked.values()} < {route.path for route in ROUTES}
    assert {kind: get["path"] for kind, get in asked.items()} == {
        "startup": "/health/startup",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {get["port"] for get in asked.values()} == {port}


def test_the_page_on_deployment_has_the_probes_of_the_cluster(pod: dict[str, Any]) -> None:
    (block,) = (each for each in blocks("docs/deployment.md", "text") if "startupProbe" in each.text)

    assert yaml.safe_load(block.text).items() <= pod["containers"][0].items()


def test_a_cluster_waits_for_the_end_of_a_drain_that_begins_with_a_delay(pod: dict[str, Any]) -> None:
    delay_s = 5

    assert f"`server.drain_delay_s: {delay_s}s`" in read("docs/deployment.md")
    assert pod["terminationGracePeriodSeconds"] >= delay_s + DRAIN_S + MARGIN_S


def test_the_container_starts_a_command_with_its_options(pod: dict[str, Any]) -> None:
    command, *words = pod["containers"][0]["args"]
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}

    args = COMMANDS[command].parser(command).parse_args(words)

    assert {args.state_dir, args.config.rpartition("/")[0]} == mounts
