"""`wicketgate demo`: the gateway on the model that ships, with three commands to try."""

from __future__ import annotations

import errno
import http.client
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wicketgate import demo as demo_package
from wicketgate import logs
from wicketgate.cli.serve import join_bind, serve
from wicketgate.config import Watcher, load
from wicketgate.config_fields import split_bind
from wicketgate.errors import ConfigurationError, ExitCode
from wicketgate.platform import default_state_dir, total_memory_bytes

if TYPE_CHECKING:
    import argparse

    from wicketgate.config import RuntimeConfig
    from wicketgate.runtime import Runtime

QUESTION = "Tell me about water."
"""What the first token and the printed curl ask."""
CHECK_TIMEOUT_S = 60
"""Longest that `--check` waits for one printed command."""


def run(args: argparse.Namespace) -> int:
    """Serve the demo; with --check run the printed commands and stop."""
    file = Path(demo_package.__path__[0]) / "runtime.yaml"
    watcher = Watcher(file)
    config = load(file)
    state_dir = Path(args.state_dir).absolute() if args.state_dir else default_state_dir(config.name)
    config, notes = with_free_ports(config, port=args.port, admin_port=args.admin_port)
    config = config.model_copy(update={"state_dir": state_dir})
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the state folder {state_dir} cannot be made: {error.strerror}", fix="choose another --state-dir"
        ) from error
    log_file = state_dir / "demo.log"
    screen = Screen(config, log_file=log_file, check=args.check, notes=notes)
    screen.begin()
    with logs.written(level=args.log_level or config.logs.level, file=log_file):
        code = serve(config, watcher=watcher, on_ready=screen.ready, fresh_ledger=True)
    return screen.check_code or code


def with_free_ports(
    config: RuntimeConfig, *, port: int | None, admin_port: int | None
) -> tuple[RuntimeConfig, list[str]]:
    """Return the configuration on ports that are free, and what to say about those that were not."""
    notes = []
    update: dict[str, object] = {}
    taken: set[int] = set()
    for name, section, wanted in (("server", config.server, port), ("admin", config.admin, admin_port)):
        host, usual = split_bind(section.bind)
        first = usual if wanted is None else wanted
        free = free_port(host, first, taken)
        taken.add(free)
        if free != first:
            notes.append(f"port {first} is taken; {name} uses {free}")
        update[name] = section.model_copy(update={"bind": join_bind(host, free)})
    return config.model_copy(update=update), notes


def free_port(host: str, first: int, taken: set[int]) -> int:
    """Return the first port from `first` on that nobody listens on; 0 stays 0, the system chooses."""
    for port in range(first, first + 100) if first else ():
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            return port
    return 0


class Screen:
    """What the demo prints, and the check that what it prints is true."""

    def __init__(self, config: RuntimeConfig, *, log_file: Path, check: bool, notes: list[str]) -> None:
        self._config = config
        self._log_file = log_file
        self._check = check
        self._notes = notes
        self._began_s = time.monotonic()
        self.check_code = 0

    def begin(self) -> None:
        """Print what is known before the engine starts."""
        print("wicketgate demo  the model that ships, on this machine\n")
        where = shown(Path(sys.prefix))
        packages = sum(1 for _ in importlib.metadata.distributions())
        size_bytes = sum(file.stat().st_size for file in self._model_folder.iterdir())
        self._step("python", None, f"{platform.python_version()} in {where}")
        self._step("packages", None, f"{packages} installed")
        self._step("model", None, f"{size_bytes / 1e6:.1f} MB, ships with wicketgate")
        for note in self._notes:
            print(f"  ! {note}")
        sys.stdout.flush()

    @property
    def _model_folder(self) -> Path:
        return Path(self._config.models[0].path)

    def _step(self, name: str, seconds: float | None, text: str) -> None:
        took = "       " if seconds is None else f"{seconds:5.1f} s"
        glyph = "✓" if (sys.stdout.encoding or "").lower().startswith("utf") else "+"
        print(f"  {glyph} {name:<12} {took}   {text}")

    def ready(self, runtime: Runtime) -> None:
        """Print the rest once the gateway can serve; the first token is asked for over HTTP, as a client."""
        engine_s = time.monotonic() - self._began_s
        threading.Thread(target=self._finish, args=(runtime, engine_s), name="demo", daemon=True).start()

    def _finish(self, runtime: Runtime, engine_s: float) -> None:
        facts = runtime.engine_facts
        memory = total_memory_bytes()
        gib = f", {memory / 2**30:.1f} GiB" if memory else ""
        self._step("engine", engine_s, f"pid {facts.pid}, {facts.runtime} on {facts.device}{gib}")
        began_s = time.monotonic()
        after_s = first_token_s(runtime.api_address)
        self._step("first token", time.monotonic() - began_s, f"after {1000 * after_s:.0f} ms")
        commands = self._commands(runtime)
        self._print_rest(runtime, commands)
        if self._check:
            self.check_code = run_checks(commands)
            os.kill(os.getpid(), signal.SIGTERM)

    def _commands(self, runtime: Runtime) -> list[str]:
        program = command_name()
        host, port = runtime.api_address
        name = "localhost" if host == "127.0.0.1" else host
        body = json.dumps(
            {"messages": [{"role": "user", "content": QUESTION}], "stream": True}, separators=(",", ":")
        )
        return [
            f"curl -N --http2-prior-knowledge {name}:{port}/v1/chat/completions -d '\n      {body}'",
            f"{program} status",
            f"{program} rollout start ttft_pipeline && {program} rollback ttft_pipeline",
        ]

    def _print_rest(self, runtime: Runtime, commands: list[str]) -> None:
        print(f"\n  API      {runtime.api_url}/v1       OpenAI and Anthropic clients")
        print(f"  Metrics  {runtime.admin_url}/metrics")
        print("\n  Try, in a second terminal:\n")
        for command in commands:
            print(f"    {command}")
        print(f"\n  Ctrl-C stops it; streams in flight finish first. Log: {shown(self._log_file)}")
        sys.stdout.flush()


def shown(path: Path) -> str:
    """Return a path as a person would write it here."""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return f"{prefix}{path.relative_to(base)}"
    return str(path)


def command_name() -> str:
    """Return `wicketgate` where it is on PATH, else how to reach the one of this environment."""
    ours = Path(sys.executable).parent / "wicketgate"
    found = shutil.which("wicketgate")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "wicketgate"
    return shlex.quote(shown(ours).replace("~", str(Path.home()), 1))


def first_token_s(address: tuple[str, int]) -> float:
    """Ask for one streamed answer as a client does; return the seconds to its first text."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "max_tokens": 8}
    began_s = time.monotonic()
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        first_s = None
        for line in response:
            if first_s is None and b'"content":"' in line and b'"content":""' not in line:
                first_s = time.monotonic() - began_s
        return time.monotonic() - began_s if first_s is None else first_s
    finally:
        connection.close()


def run_checks(commands: list[str]) -> int:
    """Run what was printed, as printed, in a shell; return 0, or the code that says that one failed."""
    print("\n  Checking the commands above:\n")
    for command in commands:
        began_s = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S602  (our own text, and the point is that the shell runs it)
                command,
                shell=True,
                capture_output=True,
                text=True,
                timeout=CHECK_TIMEOUT_S,
                check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            print(f"  x {command}\n    did not end within {CHECK_TIMEOUT_S} s")
            return ExitCode.CHECK_FAILED
        if done.returncode != 0 or "[DONE]" not in done.stdout * command.startswith("curl") + "[DONE]":
            print(f"  x {command}\n    exit code {done.returncode}\n{done.stdout}{done.stderr}")
            return ExitCode.CHECK_FAILED
        last = done.stdout.strip().splitlines()[-1:] or [""]
        print(f"  + {time.monotonic() - began_s:4.1f} s  {command.splitlines()[0][:70]}")
        print(f"           {last[0][:80]}")
    sys.stdout.flush()
    return ExitCode.DONE
