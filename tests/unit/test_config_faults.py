"""Pins how a bad runtime.yaml is refused: all faults at once, each with place and fix, never a traceback."""

from __future__ import annotations

import pytest

from wicketgate.config import ConfigurationFaultsError, load
from wicketgate.errors import ExitCode

# (text, line, column, message, fix)
BAD = [
    # the form of the file
    ("", 1, 1, "the file is empty.", "write at least one key, or {} for the defaults"),
    ("- 1\n", 1, 1, "the file is not a mapping of keys to values.", 'write "key: value" lines'),
    ("hello\n", 1, 1, "the file is not a mapping of keys to values.", 'write "key: value" lines'),
    (
        "name: a\n---\nname: b\n",
        2,
        1,
        "a second document starts here.",
        'remove the line "---" and merge the two',
    ),
    (
        "server:\n\tbacklog: 1\n",
        2,
        1,
        "cannot read this line: found a tab used for indentation.",
        "replace it with spaces",
    ),
    ("name: @x\n", 1, 7, "cannot read this line: a value cannot begin with @.", "put the value in quotes"),
    (
        "name: a: b\n",
        1,
        8,
        "cannot read this line: no colon is expected here.",
        'check the indentation of this line and the one above; put text that contains ": " in quotes',
    ),
    (
        "admin: {allowed_hosts: [a, b}\n",
        1,
        24,
        "cannot read this line: what opens here is not closed by ].",
        "add the missing ] or comma",
    ),
    (
        "name: 'x\n",
        1,
        7,
        "cannot read this line: the quoted text that begins here does not end.",
        "add the closing quote",
    ),
    (
        "name: a\x07\n",
        1,
        8,
        "cannot read this line: it contains the character U+0007.",
        "remove that character",
    ),
    ("server: &s {}\n", 1, 9, "&s is an anchor, which is not supported.", "remove it"),
    ("&n name: a\n", 1, 1, "&n is an anchor, which is not supported.", "remove it"),
    ("name: *s\n", 1, 7, "*s is an alias, which is not supported.", "write the value again"),
    ("name: !!str x\n", 1, 7, "tag:yaml.org,2002:str is a tag, which is not supported.", "remove it"),
    ("? [a]\n: 1\n", 1, 3, "a key must be a word.", 'write "key: value"'),
    ("a: " + "[" * 40 + "]" * 40, 1, 36, "this is nested deeper than 32 levels.", "remove levels"),
    (
        "server:\n  backlog: 1\n  backlog: 2\n",
        3,
        3,
        "server.backlog appears twice (first at line 2). Remove one.",
        "remove one",
    ),
    # unknown keys
    ("sever: {}\n", 1, 1, "unknown setting sever. Did you mean server?", "write server"),
    ("server:\n  bnid: x\n", 2, 3, "unknown setting server.bnid. Did you mean bind?", "write bind"),
    (
        "tpot_objective_s: 1\n",
        1,
        1,
        "unknown setting tpot_objective_s.",
        "remove it; there is governor.tpot_objective_s",
    ),
    ("metrics: {zzz: 1}\n", 1, 11, "unknown setting metrics.zzz.", "remove it; known here: public"),
    (
        "phase4_rollout:\n  ttft_pipline: {enabled: true}\n",
        2,
        3,
        "unknown feature ttft_pipline. Did you mean ttft_pipeline?",
        "write ttft_pipeline",
    ),
    (
        "phase4_rollout:\n  ttft_pipeline: {enabled: true, rolout_percentage: 1}\n",
        2,
        34,
        "unknown setting ttft_pipeline.rolout_percentage. Did you mean rollout_percentage?",
        "write rollout_percentage",
    ),
    (
        "phase4_rollout: {ttft_pipeline: {enabled: true, sample_rate: 1}}\n",
        1,
        49,
        "unknown setting ttft_pipeline.sample_rate.",
        "remove it; there is phase4_rollout.qos_monitoring.sample_rate",
    ),
    # types
    (
        "server:\n",
        1,
        8,
        "server is empty; it must be a mapping of keys.",
        "write a mapping of keys, or remove the line",
    ),
    ("server: 8000\n", 1, 9, "server is 8000; it must be a mapping of keys.", "write a mapping of keys"),
    ("name: 7\n", 1, 7, 'name is 7; it must be a name of letters, digits, ".", "_" and "-".', None),
    ("name: a/b\n", 1, 7, 'name is "a/b"; it must be a name of letters, digits, ".", "_" and "-".', None),
    (
        "server: {backlog: 1.5}\n",
        1,
        19,
        "server.backlog is 1.5; it must be an integer between 1 and 65535.",
        "write an integer",
    ),
    (
        "server: {backlog: {}}\n",
        1,
        19,
        "server.backlog is a mapping; it must be an integer between 1 and 65535.",
        None,
    ),
    (
        "metrics: {public: yes}\n",
        1,
        19,
        'metrics.public is "yes"; write true or false.',
        "write true or false",
    ),
    (
        "phase4_rollout: {ttft_pipeline: {enabled: yes please}}\n",
        1,
        43,
        'ttft_pipeline.enabled is "yes please"; write true or false.',
        "write true or false",
    ),
    (
        "phase4_rollout: {ttft_pipeline: {mode: staged}}\n",
        1,
        18,
        "ttft_pipeline.enabled is missing.",
        "add enabled",
    ),
    (
        "engine: {kind: cuda}\n",
        1,
        16,
        'engine.kind is "cuda"; it must be mlx or simulated.',
        "write mlx or simulated",
    ),
    ("admin: {allowed_hosts: a}\n", 1, 24, 'admin.allowed_hosts is "a"; it must be a list.', 'write ["a"]'),
    (
        "phase4_rollout: {ttft_pipeline: {enabled: true, requires: [1]}}\n",
        1,
        60,
        "ttft_pipeline.requires[0] is 1; it must be text.",
        'write "1"',
    ),
    ("models: [{id: a}]\n", 1, 10, "models[0].path is missing.", "add path"),
    (
        'model: ""\n',
        1,
        8,
        'model is ""; it must be a folder, or ORGANISATION/NAME on the hub.',
        "write a folder, or ORGANISATION/NAME on the hub",
    ),
    # quantities and bounds
    ("server: {backlog: 0}\n", 1, 19, "server.backlog is 0; it must be between 1 and 65535.", None),
    (
        "server: {max_body_bytes: 8 parsecs}\n",
        1,
        26,
        'server.max_body_bytes is "8 parsecs"; '
        'it must be bytes, or text such as "8MiB", between 1KiB and 1GiB.',
        'write bytes, or text such as "8MiB"',
    ),
    (
        "server: {max_body_bytes: 9GB}\n",
        1,
        26,
        'server.max_body_bytes is "9GB"; it must be between 1KiB and 1GiB.',
        "write a value between 1KiB and 1GiB",
    ),
    (
        'server: {keep_alive_s: "75"}\n',
        1,
        24,
        'server.keep_alive_s is "75"; '
        'it must be seconds, or text such as "500ms" or "24h", between 1 and 86400.',
        'write seconds, or text such as "500ms" or "24h"',
    ),
    (
        "server: {keep_alive_s: 100ms}\n",
        1,
        24,
        'server.keep_alive_s is "100ms"; it must be between 1 and 86400.',
        None,
    ),
    ("governor: {tpot_objective_s: .nan}\n", 1, 30, None, None),
    (
        "governor: {setpoint_ratio: 90%}\n",
        1,
        28,
        'governor.setpoint_ratio is "90%"; it must be a number between 0.1 and 1.',
        "write 0.9 for 90 %",
    ),
    (
        "engine: {simulated: {speed_ratio: 0}}\n",
        1,
        35,
        "engine.simulated.speed_ratio is 0; it must be above 0 and at most 1000.",
        None,
    ),
    (
        "phase4_rollout:\n  http2_transport:\n    enabled: true\n    rollout_percentage: 101\n",
        4,
        25,
        "http2_transport.rollout_percentage is 101; it must be between 0 and 100.",
        "write a value between 0 and 100",
    ),
    (
        "phase4_rollout: {http2_transport: {enabled: true, rollout_percentage: 0.00001}}\n",
        1,
        71,
        "http2_transport.rollout_percentage is 1e-05; it may have three decimals at most.",
        None,
    ),
    (
        "phase4_rollout: {qos_monitoring: {enabled: true, sample_rate: 0.1}}\n",
        1,
        63,
        "qos_monitoring.sample_rate is 0.1; it is an integer N, one sample in N. Did you mean 10?",
        "write 10",
    ),
    (
        "phase4_rollout: {qos_monitoring: {enabled: true, sample_rate: 5%}}\n",
        1,
        63,
        'qos_monitoring.sample_rate is "5%"; it is an integer N, one sample in N. Did you mean 20?',
        "write 20",
    ),
    (
        "server: {bind: 8000}\n",
        1,
        16,
        'server.bind is 8000; it must be an address such as "127.0.0.1:8000".',
        None,
    ),
    (
        "server: {bind: 1.2.3:1}\n",
        1,
        16,
        'server.bind is "1.2.3:1"; it must be an address such as "127.0.0.1:8000".',
        None,
    ),
    (
        'server: {bind: "[::1:1"}\n',
        1,
        16,
        'server.bind is "[::1:1"; it must be an address such as "127.0.0.1:8000".',
        None,
    ),
    (
        "server: {bind: a:70000}\n",
        1,
        16,
        'server.bind is "a:70000"; it must be an address such as "127.0.0.1:8000".',
        None,
    ),
    ('state_dir: "a\\0"\n', 1, 12, None, None),
    (
        "state_dir: ~no-such-user-here/x\n",
        1,
        12,
        'state_dir is "~no-such-user-here/x"; it must be a path.',
        None,
    ),
    # contradictions
    (
        "governor: {limit: {min: 10, max: 5}}\n",
        1,
        25,
        "governor.limit.min is 10, which is above max (5).",
        "make max at least min",
    ),
    (
        "governor: {limit: {initial: 2}}\n",
        1,
        29,
        "governor.limit.initial is 2, which is below min (4).",
        "make initial at least min",
    ),
    (
        "governor: {period_s: 5, window_s: 1}\n",
        1,
        35,
        "governor.window_s is 1, which is below period_s (5).",
        "make window_s at least period_s",
    ),
    ("server: {tls_key: k}\n", 1, 19, "server.tls_key is set, and tls_certificate is not.", None),
    (
        "server: {bind: 127.0.0.1:8001}\n",
        1,
        1,
        "admin.bind is the address of server.bind too.",
        "choose another port",
    ),
    (
        "server: {bind: 0.0.0.0:8000}\n",
        1,
        16,
        "server.bind is 0.0.0.0:8000, which other machines can reach, and there are no API keys.",
        "set security.api_keys_file, or bind 127.0.0.1",
    ),
    ("model: a\nmodels: [{path: b}]\n", 1, 8, "model is set, and models too.", "keep one of them"),
    (
        "models: [{path: a/b}, {path: c/b}]\n",
        1,
        30,
        "models[1].path gives the name b, which an earlier entry has.",
        "give it an id of its own",
    ),
    ("qos: {warn_nats: 20}\n", 1, 18, "qos.warn_nats is 20, which is above act_nats (13.8).", None),
    (
        "qos: {objectives: [{name: a, signal: error, target_ratio: 0.9},\n"
        "                   {name: a, signal: error, target_ratio: 0.8}]}\n",
        2,
        27,
        "qos.objectives[1].name is a, which is taken.",
        "choose another name",
    ),
    (
        "qos: {objectives: [{name: a, signal: ttft, target_ratio: 0.9}]}\n",
        1,
        38,
        "qos.objectives[0].signal is ttft, which needs a threshold_s.",
        "add threshold_s",
    ),
    (
        "qos: {objectives: [{name: a, signal: error, target_ratio: 0.9, threshold_s: 1}]}\n",
        1,
        77,
        "qos.objectives[0].threshold_s is set, and a failure takes no time.",
        "remove threshold_s",
    ),
    (
        "phase4_rollout:\n  ttft_pipeline: {enabled: true, requires: [adaptive_governer]}\n",
        2,
        45,
        "ttft_pipeline.requires names adaptive_governer, which is not defined. "
        "Did you mean adaptive_governor?",
        "write adaptive_governor",
    ),
    (
        "phase4_rollout:\n"
        "  ttft_pipeline: {enabled: true, requires: [qos_monitoring]}\n"
        "  qos_monitoring: {enabled: true, requires: [ttft_pipeline]}\n",
        2,
        44,
        "ttft_pipeline.requires is part of circular prerequisites: "
        "ttft_pipeline -> qos_monitoring -> ttft_pipeline. Remove one of them.",
        "change one of them",
    ),
    (
        "phase4_rollout:\n"
        "  stages:\n"
        "    - {name: mid, percentage: 50}\n"
        "    - {name: early, percentage: 10}\n",
        4,
        33,
        "stages[1].percentage is 10: stage early (10 %) comes after mid (50 %); "
        "percentages must rise from stage to stage.",
        "change one of them",
    ),
]


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "fix"), BAD, ids=lambda value: repr(value)[:40]
)
def test_a_bad_file_is_refused_with_place_message_and_fix(
    text: str, line: int, column: int, message: str | None, fix: str | None
) -> None:
    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text=text)

    (fault,) = raised.value.faults
    assert (fault.line, fault.column) == (line, column)
    assert message in (None, fault.message)
    assert fix in (None, fault.fix)
    assert fault.fix


def test_all_faults_are_named_at_once_in_the_order_of_the_file() -> None:
    text = "sever: {}\nserver: {backlog: 0, bind: x}\nserver: {}\nphase4_rollout: {kill_switch: 1, foo: {}}\n"

    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text=text)

    assert [(fault.line, fault.column, fault.key) for fault in raised.value.faults] == [
        (1, 1, "sever"),
        (2, 19, "server.backlog"),
        (2, 28, "server.bind"),
        (3, 1, "server"),
        (4, 31, "phase4_rollout.kill_switch"),
        (4, 34, "phase4_rollout.foo"),
    ]


def test_the_report_shows_the_line_with_a_caret_the_fix_and_what_a_running_gateway_does() -> None:
    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text="server:\n  backlog: 0  # none\n")

    assert raised.value.message == (
        "<text>:2:12  error  server.backlog is 0; it must be between 1 and 65535.\n"
        "     2 |   backlog: 0  # none\n"
        "       |            ^\n"
        "         fix: write a value between 1 and 65535\n"
        "1 error in <text>; a running gateway keeps the configuration that it has."
    )
    assert raised.value.exit_code == ExitCode.USAGE
    assert raised.value.param == "server.backlog"


def test_a_long_line_is_cut_around_the_fault() -> None:
    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text=f'{{name: "{"x" * 300}", metrics: {{public: 3}}, state_dir: "{"y" * 300}"}}')

    shown, caret = raised.value.faults[-1].render().splitlines()[1:3]
    assert len(shown) <= 110
    assert shown[caret.index("^")] == "3"


def test_a_flood_of_faults_is_counted_and_not_printed_whole() -> None:
    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text="\n".join(f"zz{index}: 1" for index in range(60)))

    assert len(raised.value.faults) == 60
    assert "... and 10 more" in raised.value.message


def test_a_bomb_of_aliases_is_refused_without_being_unfolded() -> None:
    rows = ["a: &a [x, x]"] + [f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]

    with pytest.raises(ConfigurationFaultsError) as raised:
        load(None, text="\n".join(rows))

    assert all("not supported" in f.message or "unknown" in f.message for f in raised.value.faults)
