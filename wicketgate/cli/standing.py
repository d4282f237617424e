"""Where features stand, for every command: by the running gateway, else by ledger and configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rollout.assignment import FlagSnapshot
from rollout.spec import DEFAULT_STAGES, Expectation, Feature, Key, Mode, Spec, Stage, Trouble, did_you_mean
from wicketgate.cli import control
from wicketgate.errors import LedgerError, NotFoundError, TimedOutError, UnreachableError
from wicketgate.flags import describe, states_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rollout.stages import State
    from wicketgate.cli.place import Place
    from wicketgate.ledger import Contents

ANSWER_S = 1.0
"""How long a gateway may take to tell where features stand."""
UP, SILENT, NONE = "up", "silent", "none"
"""What is known of the gateway: it answers, something listens and does not answer, nobody is there."""
SILENCE = {NONE: "No gateway is running", SILENT: "The running gateway does not answer"}


class Standing(NamedTuple):
    """What a change begins from."""

    rows: Sequence[Mapping[str, Any]]
    """The gateway's; where none answers, what ledger and configuration say."""
    gateway: str
    """UP, SILENT or NONE."""
    spec: Spec
    """What is declared."""
    contents: Contents
    """What the ledger holds."""
    states: Mapping[str, State]
    """The same, by feature."""

    def snapshot(self, **instead: State) -> FlagSnapshot:
        """Put all flags together, with the states of some features instead of the ledger's."""
        return _snapshot(self.spec, self.contents, {**self.states, **instead})

    def row(self, feature: str) -> Mapping[str, Any]:
        """Tell where a feature stands."""
        return next(each for each in self.rows if each["feature"] == feature)


def standing(place: Place) -> Standing:
    """
    Ask the gateway, and read the ledger and what is declared.

    Raises:
        ConfigurationFaultsError: no gateway answers, and the configuration cannot be used.
        LedgerError: the ledger cannot be used.
    """
    rows, gateway = ask(place)
    if rows is None:
        return _standing_without(place, gateway)
    contents = place.ledger().read()
    return Standing(rows, gateway, spec_from(rows), contents, _states(contents, place))


def look(place: Place, *, note: Callable[[str], None]) -> tuple[Sequence[Mapping[str, Any]], str]:
    """
    Tell where features stand, and whether the gateway says so.

    Args:
        place: Whose features.
        note: Told where it is not the gateway that says so.
    """
    rows, gateway = ask(place)
    if rows is not None:
        return rows, gateway
    note(f"{SILENCE[gateway]}; this is what the ledger and the configuration say.")
    return _standing_without(place, gateway).rows, gateway


def ask(place: Place) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the gateway's rows, or None; and what is known of the gateway."""
    try:
        code, answer = control.request(place.socket, "GET", "/v1/rollout", timeout_s=ANSWER_S)
    except UnreachableError:
        return None, NONE
    except TimedOutError:
        return None, SILENT
    return (answer["features"], UP) if code == 200 and "features" in answer else (None, SILENT)


def spec_from(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Make the declaration that a gateway's rows stand for."""
    features = [
        Feature(
            name=row["feature"],
            enabled=row["enabled"],
            rollout_percentage=row["ceiling_percentage"],
            mode=Mode(row["mode"]),
            key=Key(row["key"]),
            requires=tuple(row["requires"]),
            expects=tuple(map(Expectation, row["expects"])),
        )
        for row in rows
    ]
    return Spec(
        features={each.name: each for each in features},
        stages=tuple(map(_stage, rows[0]["stages"])) if rows else DEFAULT_STAGES,
        kill_switch=any(row["cause"] == "killed" for row in rows),
        promotes=all(row["promotes"] for row in rows),
    )


def check_known(feature: str, known: Iterable[str]) -> None:
    """Refuse a name that no feature has."""
    names = sorted(known)
    if feature not in names:
        raise NotFoundError(
            f"no feature named {feature}.{did_you_mean(feature, names)} Nothing was changed.",
            fix=f"Features: {', '.join(names)}.",
            param="feature",
        )


def chosen(rows: Sequence[Mapping[str, Any]], feature: str | None) -> Sequence[Mapping[str, Any]]:
    """Return the row of one feature, or all of them."""
    if feature is None:
        return rows
    check_known(feature, [row["feature"] for row in rows])
    return [row for row in rows if row["feature"] == feature]


def _standing_without(place: Place, gateway: str) -> Standing:
    """Read where features stand from ledger and configuration; guards by what a gateway left behind."""
    from rollout.controller import Controller
    from wicketgate.config import load  # pydantic: 50 ms, paid only where no gateway answers

    config = load(place.config)
    contents = place.ledger().read()
    states = _states(contents, place)
    snapshot = _snapshot(config.rollout, contents, states)
    judged = {}
    for feature, saved in contents.evidence.items():
        controller = Controller(feature, config.phase4_rollout.guard.params(), saved=saved)
        controller.follow(snapshot)
        judged[feature] = controller.judged(needs_fresh=False)
    known = {name: each for name, each in judged.items() if each is not None}
    return Standing(describe(snapshot, judged=known), gateway, config.rollout, contents, states)


def _snapshot(spec: Spec, contents: Contents, states: Mapping[str, State]) -> FlagSnapshot:
    return FlagSnapshot(spec, states, revision=contents.revision, killed=contents.killed)


def _stage(document: Mapping[str, Any]) -> Stage:
    return Stage(**{**document, "quiet": tuple(map(Trouble, document["quiet"]))})


def _states(contents: Contents, place: Place) -> dict[str, State]:
    try:
        return states_of(contents)
    except ValueError as error:
        raise LedgerError(f"the ledger in {place.state_dir} is of a newer version: {error}") from error
