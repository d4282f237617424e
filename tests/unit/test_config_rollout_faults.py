"""Pins how every key below phase4_rollout is refused: place, cause and fix, the same for all who read it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_config_faults import BAD as BAD_ELSEWHERE
from wicketgate.cli.validate import run
from wicketgate.config import ConfigurationFaultsError, Watcher, load
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

NAMES = "adaptive_governor, http2_transport, ttft_pipeline or qos_monitoring"
SECTION = "phase4_rollout: "
SECONDS = 'seconds, or text such as "500ms" or "24h"'
# (value of phase4_rollout, column, message, fix)
BAD = [
    (
        "{guard: {error_rate_percent: 0}}",
        46,
        "guard.error_rate_percent is 0; it must be above 0 and at most 100.",
        "write a value above 0 and at most 100",
    ),
    (
        "{guard: {error_rate_percent: 0.1 percent}}",
        46,
        'guard.error_rate_percent is "0.1 percent"; it must be a percentage above 0 and at most 100.',
        "write a percentage",
    ),
    (
        "{guard: {error_rate: 0.1%}}",
        26,
        "unknown setting guard.error_rate. Did you mean error_rate_percent?",
        "write error_rate_percent",
    ),
    (
        "{guard: {error_rate_pct: 1}}",
        26,
        "unknown setting guard.error_rate_pct. Did you mean error_rate_percent?",
        "write error_rate_percent",
    ),
    (
        "{guard: {error_rate_percent: .nan}}",
        46,
        "guard.error_rate_percent is .nan; it must be a percentage above 0 and at most 100.",
        "write a percentage",
    ),
    (
        "{guard: {error_rate_percent: -1}}",
        46,
        "guard.error_rate_percent is -1; it must be above 0 and at most 100.",
        "write a value above 0 and at most 100",
    ),
    (
        "{guard: {false_rollback_percent: 20}}",
        50,
        "guard.false_rollback_percent is 20; it must be above 0 and at most 10.",
        "write a value above 0 and at most 10",
    ),
    (
        "{guard: {false_promotion_percent: 0}}",
        51,
        "guard.false_promotion_percent is 0; it must be above 0 and at most 50.",
        "write a value above 0 and at most 50",
    ),
    (
        "{guard: {ttft: 5%}}",
        32,
        'guard.ttft is "5%"; it must be a mapping of keys.',
        "write a mapping of keys",
    ),
    (
        "{guard: {ttft: {tolerance_percent: 60}}}",
        32,
        "guard.ttft.rollback_at_percent is 50, which is below tolerance_percent (60).",
        "make rollback_at_percent at least tolerance_percent",
    ),
    (
        "{guard: {ttft: {rollback_at_percent: 2}}}",
        54,
        "guard.ttft.rollback_at_percent is 2, which is below tolerance_percent (5).",
        "make rollback_at_percent at least tolerance_percent",
    ),
    (
        "{guard: {ttft: {tolerance: 5%}}}",
        33,
        "unknown setting guard.ttft.tolerance. Did you mean tolerance_percent?",
        "write tolerance_percent",
    ),
    (
        "{guard: {itl: {tolerance_percent: 1e4}}}",
        51,
        "guard.itl.tolerance_percent is 1e4; it must be between 0 and 1000.",
        "write a value between 0 and 1000",
    ),
    (
        "{guard: {on_shared_incident: ignore}}",
        46,
        'guard.on_shared_incident is "ignore"; it must be rollback or hold.',
        "write rollback or hold",
    ),
    (
        "{guard: {direct: yes}}",
        34,
        'guard.direct is "yes"; it must be alert or rollback.',
        "write alert or rollback",
    ),
    (
        "{guard: {failures_per_key: 0}}",
        44,
        "guard.failures_per_key is 0; it must be between 1 and 1000.",
        "write a value between 1 and 1000",
    ),
    (
        "{guard: {failures_per_key: 1.5}}",
        44,
        "guard.failures_per_key is 1.5; it must be an integer between 1 and 1000.",
        "write an integer",
    ),
    (
        "{guard: {first_token_deadline_s: 0}}",
        50,
        "guard.first_token_deadline_s is 0; it must be between 0.1 and 3600.",
        "write a value between 0.1 and 3600",
    ),
    (
        "{guard: {first_token_deadline_s: 5 minutes}}",
        50,
        f'guard.first_token_deadline_s is "5 minutes"; it must be {SECONDS}, between 0.1 and 3600.',
        f"write {SECONDS}",
    ),
    (
        "{guard: {fresh_within_s: 10ms}}",
        42,
        'guard.fresh_within_s is "10ms"; it must be between 1 and 86400.',
        "write a value between 1 and 86400",
    ),
    (
        "{drill: {feature: 5}}",
        35,
        f"drill.feature is 5; it must be {NAMES}.",
        f"write {NAMES}",
    ),
    (
        "{drill: {feature: ttft_pipline}}",
        35,
        f'drill.feature is "ttft_pipline"; it must be {NAMES}.',
        f"write {NAMES}",
    ),
    (
        "{drill: {fail_ratio: 50%}}",
        38,
        'drill.fail_ratio is "50%"; it must be a number between 0 and 1.',
        "write 0.5 for 50 %",
    ),
    (
        "{guards: {}}",
        18,
        "unknown feature guards. Did you mean guard?",
        "write guard",
    ),
    (
        "{drill: {fail_ratio: 2}}",
        38,
        "drill.fail_ratio is 2; it must be between 0 and 1.",
        "write a value between 0 and 1",
    ),
    (
        "{drill: {fail_percent: 2}}",
        26,
        "unknown setting drill.fail_percent. Did you mean fail_ratio?",
        "write fail_ratio",
    ),
    (
        "{drill: {delay_s: 2m}}",
        35,
        'drill.delay_s is "2m"; it must be between 0 and 60.',
        "write a value between 0 and 60",
    ),
    (
        "{promotion: auto}",
        29,
        'promotion is "auto"; it must be automatic or manual.',
        "write automatic or manual",
    ),
    (
        "{promotion: }",
        29,
        "promotion is empty; it must be automatic or manual.",
        "write automatic or manual, or remove the line",
    ),
    ("{promote: manual}", 18, "unknown setting promote. Did you mean promotion?", "write promotion"),
    ("{stages: canary}", 26, 'stages is "canary"; it must be a list.', 'write ["canary"]'),
    ("{stages: {canary: 1}}", 26, "stages is a mapping; it must be a list.", "write a list"),
    (
        "{stages: [canary]}",
        27,
        'stages[0] is "canary"; it must be a mapping of keys.',
        "write a mapping of keys",
    ),
    ("{stages: [{name: canary}]}", 27, "stages[0].percentage is missing.", "add percentage"),
    ("{stages: [{percentage: 1}]}", 27, "stages[0].name is missing.", "add name"),
    (
        "{stages: [{name: canary, percentage: 1, hold: 24h}]}",
        57,
        "unknown setting stages[0].hold. Did you mean hold_s?",
        "write hold_s",
    ),
    (
        "{stages: [{name: canary, percentage: 1, hold_s: 24 hours}]}",
        65,
        f'stages[0].hold_s is "24 hours"; it must be {SECONDS}, between 0 and 31622400.',
        f"write {SECONDS}",
    ),
    (
        "{stages: [{name: canary, percentage: 1, hold_s: -1}]}",
        65,
        "stages[0].hold_s is -1; it must be between 0 and 31622400.",
        "write a value between 0 and 31622400",
    ),
    (
        "{stages: [{name: canary, percentage: 1, promote_below_percent: 0}]}",
        80,
        "stages[0].promote_below_percent is 0; it must be above 0 and at most 100.",
        "write a value above 0 and at most 100",
    ),
    (
        "{stages: [{name: canary, percentage: 1, promote_below: 0.5%}]}",
        57,
        "unknown setting stages[0].promote_below. Did you mean promote_below_percent?",
        "write promote_below_percent",
    ),
    (
        "{stages: [{name: canary, percentage: 1, faster_ttft: 5%}]}",
        70,
        'stages[0].faster_ttft is "5%"; write true or false.',
        "write true or false",
    ),
    (
        "{stages: [{name: canary, percentage: 1, throughput_gain_percent: -30}]}",
        82,
        "stages[0].throughput_gain_percent is -30; it must be between 0 and 1000.",
        "write a value between 0 and 1000",
    ),
    (
        "{stages: [{name: canary, percentage: 1, throughput_gain: 30}]}",
        57,
        "unknown setting stages[0].throughput_gain. Did you mean throughput_gain_percent?",
        "write throughput_gain_percent",
    ),
    (
        "{stages: [{name: canary, percentage: 1, quiet: resource}]}",
        64,
        'stages[0].quiet is "resource"; it must be a list.',
        'write ["resource"]',
    ),
    (
        "{stages: [{name: canary, percentage: 1, quiet: [memory]}]}",
        65,
        'stages[0].quiet[0] is "memory"; it must be violation, resource or incident.',
        "write violation, resource or incident",
    ),
    (
        "{stages: [{name: canary, percentage: 1, quiet: [resource, incidents]}]}",
        75,
        'stages[0].quiet[1] is "incidents"; it must be violation, resource or incident.',
        "write violation, resource or incident",
    ),
    (
        "{stages: [{name: canary, percentage: 1, quiet_s: forever}]}",
        66,
        f'stages[0].quiet_s is "forever"; it must be {SECONDS}, between 0 and 31622400.',
        f"write {SECONDS}",
    ),
    (
        "{ttft_pipeline: {enabled: true, expects: ttft}}",
        58,
        'ttft_pipeline.expects is "ttft"; it must be a list.',
        'write ["ttft"]',
    ),
    (
        "{ttft_pipeline: {enabled: true, expects: [latency]}}",
        59,
        'ttft_pipeline.expects[0] is "latency"; it must be ttft or throughput.',
        "write ttft or throughput",
    ),
    (
        "{ttft_pipeline: {enabled: true, mode: stagd}}",
        55,
        'ttft_pipeline.mode is "stagd"; it must be direct or staged.',
        "write direct or staged",
    ),
    (
        "{ttft_pipeline: {enabled: true, mode: on}}",
        55,
        'ttft_pipeline.mode is "on"; it must be direct or staged.',
        "write direct or staged",
    ),
    (
        "{ttft_pipeline: {enabled: true, key: sesion}}",
        54,
        'ttft_pipeline.key is "sesion"; it must be session, user, client or request.',
        "write session, user, client or request",
    ),
    (
        "{ttft_pipeline: {enabled: true, key: connection}}",
        54,
        'ttft_pipeline.key is "connection"; it must be session, user, client or request.',
        "write session, user, client or request",
    ),
    (
        "{http2_transport: {enabled: true, key: session}}",
        56,
        'http2_transport.key is "session"; it must be connection.',
        "write connection",
    ),
    (
        "{ttft_pipeline: {enabled: true, requires: ttft_pipeline}}",
        59,
        'ttft_pipeline.requires is "ttft_pipeline"; it must be a list.',
        'write ["ttft_pipeline"]',
    ),
    (
        "{ttft_pipeline: {enabled: true, rollout_percentage: 101%}}",
        69,
        'ttft_pipeline.rollout_percentage is "101%"; it must be between 0 and 100.',
        "write a value between 0 and 100",
    ),
    (
        "{ttft_pipeline: {enabled: true, rollout_percentage: fifty}}",
        69,
        'ttft_pipeline.rollout_percentage is "fifty"; it must be a percentage between 0 and 100.',
        "write a percentage",
    ),
    (
        "{ttft_pipeline: {enabled: true, rollout_percentage: -1}}",
        69,
        "ttft_pipeline.rollout_percentage is -1; it must be between 0 and 100.",
        "write a value between 0 and 100",
    ),
    (
        "{ttft_pipeline: {enabled: true, percentage: 5}}",
        49,
        "unknown setting ttft_pipeline.percentage. Did you mean rollout_percentage?",
        "write rollout_percentage",
    ),
    (
        "{ttft_pipeline: true}",
        33,
        "ttft_pipeline is true; it must be a mapping of keys.",
        "write a mapping of keys",
    ),
    (
        "{ttft_pipeline: }",
        33,
        "ttft_pipeline is empty; it must be a mapping of keys.",
        "write a mapping of keys, or remove the line",
    ),
    (
        "{qos_monitoring: {enabled: true, sample_rate: 0}}",
        63,
        "qos_monitoring.sample_rate is 0; it must be between 1 and 1000000.",
        "write a value between 1 and 1000000",
    ),
    (
        "{qos_monitoring: {enabled: true, sample_rate: 10%}}",
        63,
        'qos_monitoring.sample_rate is "10%"; it is an integer N, one sample in N. Did you mean 10?',
        "write 10",
    ),
    (
        "{qos_monitoring: {enabled: true, sample_rate: 1/10}}",
        63,
        'qos_monitoring.sample_rate is "1/10"; it must be an integer N, one sample in N, '
        "between 1 and 1000000.",
        "write an integer N, one sample in N",
    ),
    ("{kill_switch: on}", 31, 'kill_switch is "on"; write true or false.', "write true or false"),
    ("{kill_swich: true}", 18, "unknown setting kill_swich. Did you mean kill_switch?", "write kill_switch"),
]
IN_LINES = [
    (
        "phase4_rollout:\n  guard:\n\tttft: {}\n",
        "3:1",
        "cannot read this line: found a tab used for indentation.",
    ),
    (
        "phase4_rollout:\n  guard: {}\n  guard: {}\n",
        "3:3",
        "guard appears twice (first at line 2). Remove one.",
    ),
    (
        "phase4_rollout:\n  ttft_pipeline: {enabled: true}\n  ttft_pipeline: {enabled: false}\n",
        "3:3",
        "ttft_pipeline appears twice (first at line 2). Remove one.",
    ),
    ("phase4_rolout: {}\n", "1:1", "unknown setting phase4_rolout. Did you mean phase4_rollout?"),
    (
        "phase4_rollout:\n"
        "  adaptive_governor: {enabled: true, requires: [qos_monitoring]}\n"
        "  ttft_pipeline: {enabled: true, requires: [adaptive_governor]}\n"
        "  qos_monitoring: {enabled: true, requires: [ttft_pipeline]}\n",
        "2:48",
        "adaptive_governor.requires is part of circular prerequisites: "
        "adaptive_governor -> qos_monitoring -> ttft_pipeline -> adaptive_governor. Remove one of them.",
    ),
    (
        "phase4_rollout:\n  stages:\n    - {name: a, percentage: 1}\n    - {name: b, percentage: 1}\n",
        "4:29",
        "stages[1].percentage is 1: stage b (1 %) comes after a (1 %); percentages must rise from stage to "
        "stage.",
    ),
]
EVERY_TEXT = [
    *(row[0] for row in BAD_ELSEWHERE),
    *(f"{SECTION}{row[0]}\n" for row in BAD),
    *(row[0] for row in IN_LINES),
]


def faults_of(text: str) -> ConfigurationFaultsError:
    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text=text)
    return raised.value


@pytest.mark.parametrize(("value", "column", "message", "fix"), BAD, ids=[row[0][:50] for row in BAD])
def test_a_bad_key_is_refused_with_place_message_and_fix(
    value: str, column: int, message: str, fix: str
) -> None:
    (fault,) = faults_of(f"{SECTION}{value}\n").faults

    assert (fault.line, fault.column) == (1, column)
    assert (fault.message, fault.fix) == (message, fix)


@pytest.mark.parametrize(("text", "place", "message"), IN_LINES, ids=[row[2][:40] for row in IN_LINES])
def test_a_fault_in_a_file_of_lines_is_found_at_its_line(text: str, place: str, message: str) -> None:
    (fault,) = faults_of(text).faults

    assert f"{fault.line}:{fault.column}" == place
    assert fault.message == message


def test_validate_and_a_reload_tell_every_bad_file_in_the_same_words_and_none_with_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runtime.yaml"
    assert len(EVERY_TEXT) >= 40
    for number, text in enumerate(EVERY_TEXT):
        file.write_text("name: good\n")
        watcher = Watcher(file)
        file.write_text(f"{text}#{number}\n" if text else "")

        code = run(Namespace(file=str(file), json=False))
        said = capsys.readouterr().out
        refused = [watcher.poll(), watcher.poll()][-1]

        assert code == ExitCode.USAGE, text
        assert isinstance(refused, ConfigurationFaultsError), text
        assert refused.message + "\n" == said
        assert said.startswith(f"{file}:"), said
        assert "fix: " in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{ttft_pipeline: {enabled: true, rollout_percentage: 0.5}}", "ttft_pipeline.rollout_percentage"),
        ("{stages: [{name: canary, percentage: 0.5}]}", "stages[0].percentage"),
    ],
)
def test_a_percentage_that_may_be_meant_as_a_share_is_doubted(value: str, shown: str) -> None:
    (doubt,) = load(None, text=SECTION + value).warnings

    assert doubt.severity == "warning"
    assert (SECTION + value)[doubt.column - 1 :].startswith("0.5")
    assert doubt.message == (
        f'{shown} is 0.5, which means 0.5 %. Write 50 for half of all traffic, or "0.5%" to silence this.'
    )


def test_a_percentage_with_its_sign_is_not_doubted() -> None:
    config = load(None, text=f"{SECTION}{{ttft_pipeline: {{enabled: true, rollout_percentage: 0.5%}}}}")

    assert config.warnings == ()
    assert config.rollout.features["ttft_pipeline"].rollout_percentage == 0.5
