"""The tree of commands."""

from __future__ import annotations

from wicketgate.cli import options
from wicketgate.cli.command import CHECK, LOOK, OTHER, RUN, Command
from wicketgate.cli.commands_rollout import LOOKING, LOWERING, RAISING, TRYING

COMMANDS = {
    "serve": Command(
        RUN,
        "serve a model, until Ctrl-C",
        "wicketgate.cli.serve:run",
        options.serve,
        options.listeners,
        options.place,
        shown="serve [MODEL]",
        examples=("wicketgate serve --config runtime.yaml",),
    ),
    "demo": Command(
        RUN,
        "serve the model that ships, to try it out",
        "wicketgate.cli.demo:run",
        options.demo,
        options.listeners,
        examples=("wicketgate demo",),
    ),
    "model load": Command(
        RUN,
        "load a model; idle ones make room",
        "wicketgate.cli.model:load",
        options.model,
        options.wait_for_model,
        options.place,
        shown="model load NAME [--wait]",
        examples=("wicketgate model load demo --wait",),
    ),
    "model unload": Command(
        RUN,
        "end a model's host once its streams end",
        "wicketgate.cli.model:unload",
        options.model,
        options.wait_for_model,
        options.place,
        shown="model unload NAME [--wait]",
        examples=("wicketgate model unload demo --wait",),
    ),
    "cache clear": Command(
        RUN,
        "drop kept prefixes, but pinned ones",
        "wicketgate.cli.cache:clear",
        options.one_model,
        options.tier,
        options.place,
        shown="cache clear [--tier T]",
        examples=("wicketgate cache clear --tier disk",),
    ),
    "status": Command(
        LOOK,
        "what is true now, from the running gateway",
        "wicketgate.cli.status:run",
        options.place,
        examples=("wicketgate status", "wicketgate status --json"),
    ),
    "model ls": Command(
        LOOK,
        "the models, and which are loaded",
        "wicketgate.cli.model:ls",
        options.place,
        examples=("wicketgate model ls",),
    ),
    "cache ls": Command(
        LOOK,
        "the prefixes whose KV is kept",
        "wicketgate.cli.cache:ls",
        options.one_model,
        options.place,
        examples=("wicketgate cache ls",),
    ),
    "cache stats": Command(
        LOOK,
        "hits, sizes, and memory by session",
        "wicketgate.cli.cache:stats",
        options.one_model,
        options.place,
        examples=("wicketgate cache stats",),
    ),
    **LOOKING,
    **RAISING,
    **LOWERING,
    "validate": Command(
        CHECK,
        "check a configuration file",
        "wicketgate.cli.validate:run",
        options.file,
        shown="validate [FILE]",
        examples=("wicketgate validate runtime.yaml",),
    ),
    "doctor": Command(
        CHECK,
        "what this machine can do, what is missing",
        "wicketgate.cli.doctor:run",
        options.place,
        examples=("wicketgate doctor",),
    ),
    "bench run": Command(
        CHECK,
        "measure this machine through the stack",
        "wicketgate.cli.bench:run",
        options.bench,
        examples=("wicketgate bench run --profile smoke",),
    ),
    **TRYING,
    "completion": Command(
        OTHER,
        "print a script that completes commands",
        "wicketgate.cli.completion:run",
        options.shell,
        shown="completion SHELL",
        examples=('eval "$(wicketgate completion bash)"',),
    ),
}
"""Every command by its words."""
