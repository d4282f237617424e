"""The commands that look at features, raise their shares, and lower them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wicketgate.cli import options
from wicketgate.cli.command import CHECK, LOOK, LOWER, RAISE, Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.cli.command import Parser


def _changing(
    group: str,
    summary: str,
    verb: str,
    *more: Callable[[Parser], None],
    shown: str = "",
    examples: tuple[str, ...] = (),
) -> Command:
    return Command(
        group,
        summary,
        f"wicketgate.cli.change:{verb}",
        options.feature,
        *more,
        options.change,
        options.place,
        shown=shown or f"rollout {verb} F",
        examples=examples,
    )


LOOKING = {
    "rollout list": Command(
        LOOK, "the features as declared", "wicketgate.cli.rollout:declared", options.place
    ),
    "rollout status": Command(
        LOOK,
        "where every feature stands",
        "wicketgate.cli.rollout:status",
        options.any_feature,
        options.look,
        options.place,
        shown="rollout status [F] [--watch]",
        examples=("wicketgate rollout status", "wicketgate rollout status ttft_pipeline"),
    ),
    "rollout explain": Command(
        LOOK,
        "whether a key is on, and why",
        "wicketgate.cli.explain:run",
        options.feature,
        options.key,
        options.place,
        shown="rollout explain F --key K",
        examples=("wicketgate rollout explain ttft_pipeline --key sess-81",),
    ),
    "rollout history": Command(
        LOOK,
        "who changed what, when and why",
        "wicketgate.cli.history:run",
        options.any_feature,
        options.limit,
        options.place,
        shown="rollout history [F]",
        examples=("wicketgate rollout history", "wicketgate rollout history ttft_pipeline --limit 5"),
    ),
}
RAISING = {
    "rollout start": _changing(
        RAISE,
        "begin a staged rollout",
        "start",
        options.start,
        options.wait,
        options.yes,
        shown="rollout start F [--at STAGE]",
        examples=(
            "wicketgate rollout start ttft_pipeline",
            "wicketgate rollout start ttft_pipeline --compress 1440 --wait 10m",
        ),
    ),
    "rollout promote": _changing(
        RAISE,
        "go on to the next stage",
        "promote",
        options.force,
        options.wait,
        options.yes,
        shown="rollout promote F [--force]",
    ),
    "rollout resume": _changing(RAISE, "let the hold clock run again", "resume", options.wait),
    "rollout reset": _changing(RAISE, "end the rollback of a direct feature", "reset", options.yes),
    "rollout unkill": Command(
        RAISE,
        "release the kill switch",
        "wicketgate.cli.kill:unkill",
        options.reason,
        options.dry_run,
        options.yes,
        options.place,
    ),
}
LOWERING = {
    "rollback": Command(
        LOWER,
        "put a feature to 0 % at once, and latch it",
        "wicketgate.cli.rollback:run",
        options.one_or_all,
        options.reason,
        options.dry_run,
        options.place,
        shown="rollback F | --all",
        examples=('wicketgate rollback ttft_pipeline --reason "INC-42"', "wicketgate rollback --all"),
    ),
    "rollout kill": Command(
        LOWER,
        "every feature to 0 % at once, until unkill",
        "wicketgate.cli.kill:kill",
        options.reason,
        options.dry_run,
        options.place,
        examples=('wicketgate rollout kill --reason "INC-42"',),
    ),
    "rollout pause": _changing(LOWER, "keep the share, stop the hold clock", "pause"),
    "rollout stop": _changing(LOWER, "end a staged rollout, to 0 %", "stop"),
}
TRYING = {
    "rollout simulate": Command(
        CHECK,
        "what the guards would do with your traffic",
        "wicketgate.cli.simulate:run",
        options.feature,
        options.simulate,
        options.place,
        shown="rollout simulate F --rate R",
        examples=("wicketgate rollout simulate ttft_pipeline --rate 1% --rps 10 --runs 100",),
    ),
    "rollout export": Command(
        CHECK,
        "the flags as flagd or a script reads them",
        "wicketgate.cli.export:run",
        options.export_format,
        options.place,
        shown="rollout export --format X",
        examples=("wicketgate rollout export --format flagd",),
    ),
}
ALIASES = {"rollout validate": "validate", "rollout doctor": "doctor", "rollout rollback": "rollback"}
"""Where people look for commands who know other tools; help does not list them."""
