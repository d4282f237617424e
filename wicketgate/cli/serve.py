"""`wicketgate serve`: the gateway in the foreground, until a signal."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wicketgate import logs
from wicketgate.config import Watcher, load
from wicketgate.config_fields import split_bind
from wicketgate.config_schema import ModelEntry
from wicketgate.package_owners import check_package_owners
from wicketgate.platform import default_state_dir
from wicketgate.runtime import Runtime
from wicketgate.served import served_models
from wicketgate.state_folder import StateFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine

    from wicketgate.config import RuntimeConfig
    from wicketgate.errors import ExitCode

T = TypeVar("T")


def run(args: argparse.Namespace) -> int:
    """Serve; the exit code tells whether every stream could finish."""
    file = config_file(args.config)
    watcher = None if file is None else Watcher(file, override=partial(overridden, args=args))
    config = overridden(load(file), args)
    for warning in config.warnings:
        print(warning.render(), file=sys.stderr)
    with logs.written(level=config.logs.level, requests_file=config.logs.requests_file):
        return serve(config, watcher=watcher, on_ready=_say_ready)


def config_file(option: str | None) -> Path | None:
    """Return the file that is in force: the option's, $WICKETGATE_CONFIG, ./runtime.yaml, or none."""
    for named in (option, os.environ.get("WICKETGATE_CONFIG")):
        if named:
            return Path(named)
    here = Path("runtime.yaml")
    return here if here.is_file() else None


def overridden(config: RuntimeConfig, args: argparse.Namespace) -> RuntimeConfig:
    """Return the configuration with what the command line says instead."""
    host, port = split_bind(config.server.bind)
    admin_host, admin_port = split_bind(config.admin.bind)
    update: dict[str, object] = {
        "server": config.server.model_copy(
            update={"bind": join_bind(args.host or host, port if args.port is None else args.port)}
        ),
        "admin": config.admin.model_copy(
            update={"bind": join_bind(admin_host, admin_port if args.admin_port is None else args.admin_port)}
        ),
    }
    if args.state_dir is not None:
        update["state_dir"] = Path(args.state_dir).absolute()
    if args.log_level is not None:
        update["logs"] = config.logs.model_copy(update={"level": args.log_level})
    if args.model is not None:
        update["models"] = (ModelEntry(path=args.model),)
    return config.model_copy(update=update)


def join_bind(host: str, port: int) -> str:
    """Write an address and a port as one text; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(
    config: RuntimeConfig,
    *,
    watcher: Watcher | None,
    on_ready: Callable[[Runtime], None],
    fresh_ledger: bool = False,
) -> int:
    """
    Run one gateway to its end.

    Args:
        config: What it shall do.
        watcher: Follows the configuration's file.
        on_ready: Called when it can serve.
        fresh_ledger: Begin with an empty ledger.

    Raises:
        ConfigurationError: no model, or one that cannot be used.
        RefusedError: another runtime uses the state folder.
    """
    check_package_owners()
    served = served_models(config)
    state = StateFolder(config.state_dir or default_state_dir(config.name))
    try:
        if fresh_ledger:
            state.forget_ledger()

        def ready(runtime: Runtime) -> None:
            # What is there by now stays: the collector would go through it again and again, and hold up all
            # streams for 60 ms each time (Linux CPU).
            gc.collect()
            gc.freeze()
            on_ready(runtime)

        async def main() -> ExitCode:
            runtime = Runtime(config, state=state, served=served, watcher=watcher, on_ready=ready)
            code = await runtime.run()
            _stop_listening()
            return code

        return run_loop(main())
    finally:
        state.close()


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on uvloop where it is installed, else on asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _stop_listening() -> None:
    """Let no signal end what has ended: the loop would give them back to the system, which kills."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _say_ready(runtime: Runtime) -> None:
    print(f"wicketgate serves {', '.join(runtime.models)} on {runtime.api_url}/v1", file=sys.stderr)
    print(f"metrics on {runtime.admin_url}/metrics; Ctrl-C drains and stops", file=sys.stderr)
