"""Pins what a wrong command line is told: cause, fix, exit code, the same under --json; no traceback."""

from __future__ import annotations

import json

import pytest

from wicketgate.cli.main import run
from wicketgate.errors import ExitCode
from wicketgate.ledger import Ledger

USAGE, REFUSED, CONFLICT = ExitCode.USAGE, ExitCode.REFUSED, ExitCode.REVISION_CONFLICT
CONFIG = """
phase4_rollout:
  ttft_pipeline: {enabled: true, mode: staged}
  qos_monitoring: {enabled: true, mode: staged}
  adaptive_governor: {enabled: true}
  http2_transport: {enabled: true, mode: staged, key: connection}
"""
# qos_monitoring is rolled back, http2_transport is at canary; the rest was never touched.
BEFORE = (
    ["rollback", "qos_monitoring", "--reason", "INC-1"],
    ["rollout", "start", "http2_transport"],
)

WRONG = [
    ("statsu", USAGE, "no command named statsu. Did you mean status?", "wicketgate --help"),
    ("rolback", USAGE, "no command named rolback. Did you mean rollback?", "wicketgate --help"),
    ("frobnicate", USAGE, "no command named frobnicate.", "wicketgate --help"),
    ("help", USAGE, "no command named help.", "wicketgate --help"),
    ("--verbose status", USAGE, "options stand after the command, and --verbose is before it", "--help"),
    (
        "rollout strat F",
        USAGE,
        "no command named rollout strat. Did you mean start?",
        "wicketgate rollout --help",
    ),
    ("rollout promte F", USAGE, "no command named rollout promte. Did you mean promote?", "rollout --help"),
    ("rollout --yes", USAGE, "rollout needs a command before --yes", "wicketgate rollout --help"),
    ("bench rnu", USAGE, "no command named bench rnu. Did you mean run?", "wicketgate bench --help"),
    (
        "rollout start",
        USAGE,
        "the following arguments are required: FEATURE",
        "wicketgate rollout start --help",
    ),
    ("rollout promote", USAGE, "the following arguments are required: FEATURE", "rollout promote --help"),
    ("rollout pause a b", USAGE, "rollout pause takes no argument b.", "wicketgate rollout pause --help"),
    ("status now", USAGE, "status takes no argument now.", "wicketgate status --help"),
    ("status --jsn", USAGE, "status takes no option --jsn. Did you mean --json?", "wicketgate status --help"),
    ("status --js", USAGE, "status takes no option --js. Did you mean --json?", "wicketgate status --help"),
    ("rollout start ttft_pipeline --stage mid", USAGE, "takes no option --stage.", "rollout start --help"),
    ("rollout start ttft_pipeline --frce", USAGE, "rollout start takes no option --frce.", "--help"),
    ("rollout pause ttft_pipeline --yes", USAGE, "rollout pause takes no option --yes.", "--help"),
    ("rollback ttft_pipeline --expect-revision 3", USAGE, "takes no option --expect-revision.", "--help"),
    ("rollback ttft_pipeline --reason", USAGE, "argument --reason: expected one argument", "rollback --help"),
    ("status --color blue", USAGE, "argument --color: invalid choice: 'blue'", "wicketgate status --help"),
    ("demo --state-dir /dev/null/x", USAGE, "the state folder /dev/null/x cannot be made", "choose another"),
    ("rollback --all --state-dir=", USAGE, "--state-dir: is empty; leave it out for", "rollback --help"),
    ("status --config=", USAGE, "--config: is empty; leave it out for the default", "status --help"),
    (
        "serve --port 70000",
        USAGE,
        "--port: is 70000; it must be a whole number from 0 to 65535",
        "serve --help",
    ),
    (
        "serve --port http",
        USAGE,
        "--port: is http; it must be a whole number from 0 to 65535",
        "serve --help",
    ),
    ("serve --admin-port -1", USAGE, "--admin-port: is -1; it must be a whole number", "serve --help"),
    ("serve --log-level loud", USAGE, "argument --log-level: invalid choice: 'loud'", "serve --help"),
    ("demo --port x", USAGE, "argument --port: is x; it must be a whole number", "wicketgate demo --help"),
    ("rollback", USAGE, "rollback needs the name of a feature, or --all", "wicketgate rollback --help"),
    ("rollback ttft_pipeline --all", USAGE, "rollback needs the name of a feature, or --all", "--help"),
    (
        "rollback ttft_pipline",
        USAGE,
        "no feature named ttft_pipline. Did you mean ttft_pipeline? Nothing was rolled back. Features: "
        "adaptive_governor, http2_transport, qos_monitoring, ttft_pipeline.",
        "needs --config",
    ),
    ("rollback zzz", USAGE, "no feature named zzz. Nothing was rolled back.", "needs --config"),
    (
        "rollback kill_switch",
        USAGE,
        "no feature named kill_switch. Nothing was rolled back.",
        "needs --config",
    ),
    (
        "rollout start ttft_pipline",
        USAGE,
        "no feature named ttft_pipline. Did you mean ttft_pipeline? Nothing was changed.",
        "Features: adaptive_governor, http2_transport, qos_monitoring, ttft_pipeline.",
    ),
    ("rollout status qos", USAGE, "no feature named qos.", "Features: adaptive_governor"),
    (
        "rollout start ttft_pipeline --at erly --yes",
        USAGE,
        "no stage named erly. Did you mean early? Stages: canary, early, mid, full.",
        "Nothing was done.",
    ),
    (
        "rollout start ttft_pipeline --at mid",
        USAGE,
        "there is nobody to ask: Start ttft_pipeline at mid 3/4: 0 % → 50 % of sessions?",
        "Pass --yes",
    ),
    (
        "rollout start qos_monitoring --yes",
        USAGE,
        "qos_monitoring is rolled back, so start needs --reason. Nothing was done.",
        'wicketgate rollout start qos_monitoring --reason "..."',
    ),
    (
        "rollout start qos_monitoring --reason fixed",
        USAGE,
        "there is nobody to ask: Start qos_monitoring at canary 1/4: 0 % → 1 % of sessions?",
        "Pass --yes",
    ),
    (
        "rollout promote http2_transport --force --yes",
        USAGE,
        "--force goes against the evidence, so promote needs --reason. Nothing was done.",
        'wicketgate rollout promote http2_transport --force --reason "..."',
    ),
    (
        "rollout promote http2_transport",
        REFUSED,
        "http2_transport stays at canary: no evidence was gathered there yet. Nothing was done.",
        'Promote anyway: wicketgate rollout promote http2_transport --force --reason "..."',
    ),
    (
        "rollout promote ttft_pipeline",
        REFUSED,
        "ttft_pipeline is off; promote is not possible then. Nothing was done.",
        "Possible: rollout start, rollout stop, rollback.",
    ),
    (
        "rollout start http2_transport",
        REFUSED,
        "http2_transport is running at canary 1/4; start is not possible then. Nothing was done.",
        "Possible: rollout promote, rollout pause, rollout stop, rollback.",
    ),
    (
        "rollout resume qos_monitoring",
        REFUSED,
        "qos_monitoring is rolled back; resume is not possible then. Nothing was done.",
        "Possible: rollout start, rollback.",
    ),
    (
        "rollout start adaptive_governor",
        REFUSED,
        "adaptive_governor is a direct feature: its share is its rollout_percentage",
        "write mode: staged under adaptive_governor in runtime.yaml",
    ),
    (
        "rollout reset adaptive_governor",
        REFUSED,
        "adaptive_governor is not rolled back; there is nothing to reset.",
        None,
    ),
    (
        "rollout pause http2_transport --expect-revision 9",
        CONFLICT,
        "http2_transport changed meanwhile: you saw revision 9, it is 2, canary 1/4 by",
        "wicketgate rollout status http2_transport",
    ),
    (
        "rollout start ttft_pipeline --expect-revision 1.5",
        USAGE,
        "--expect-revision: is 1.5; it must be a whole number, 0 or more",
        "rollout start --help",
    ),
    (
        "rollout promote http2_transport --force --reason x",
        USAGE,
        "there is nobody to ask: Promote http2_transport to early 2/4: 1 % → 10 % of connections?",
        "Pass --yes",
    ),
    (
        "rollout promote http2_transport --expect-revision 1",
        CONFLICT,
        "http2_transport changed meanwhile: you saw revision 1, it is 2, canary 1/4 by",
        "wicketgate rollout status http2_transport",
    ),
    (
        "rollout start ttft_pipeline --compress 0.5",
        USAGE,
        "argument --compress: is 0.5; it must be a number from 1 to 1000000",
        "rollout start --help",
    ),
    (
        "rollout start ttft_pipeline --compress nan",
        USAGE,
        "argument --compress: is nan; it must be",
        "--help",
    ),
    (
        "rollout start --wait ttft_pipeline",
        USAGE,
        "argument --wait: is ttft_pipeline; it must be a time such as 30, 90s, 5m or 24h",
        "rollout start --help",
    ),
    ("rollout start ttft_pipeline --wait 5x", USAGE, "argument --wait: is 5x; it must be a time", "--help"),
    ("rollout start ttft_pipeline --wait=-1", USAGE, "argument --wait: is -1; it must be a time", "--help"),
    (
        "rollout start ttft_pipeline --wait 5s",
        ExitCode.UNREACHABLE,
        "no gateway is running, so nobody watches ttft_pipeline, and --wait would wait for nothing.",
        "Start one: wicketgate serve",
    ),
    ("rollout pause http2_transport --wait", USAGE, "rollout pause takes no option --wait.", "--help"),
    ("rollout stop http2_transport --force", USAGE, "rollout stop takes no option --force.", "--help"),
    ("rollout status --wait", USAGE, "--wait needs the name of a feature", "rollout status --help"),
    (
        "rollout status adaptive_governor --wait 1",
        REFUSED,
        "adaptive_governor is a direct feature; it has no stage to wait for.",
        "wicketgate rollout status adaptive_governor",
    ),
    (
        "rollout status ttft_pipeline --exitcode",
        USAGE,
        "takes no option --exitcode. Did you mean --exit-code?",
        "rollout status --help",
    ),
    ("rollout explain ttft_pipeline", USAGE, "the following arguments are required: --key", "--help"),
    ("rollout explain ttft_pipline --key s", USAGE, "Did you mean ttft_pipeline?", "Features: "),
    ("rollout history ttft_pipline", USAGE, "no feature named ttft_pipline. Did you mean ttft", "Features: "),
    (
        "rollout history --limit 0",
        USAGE,
        "argument --limit: is 0; it must be a whole number from 1",
        "--help",
    ),
    ("rollout histroy", USAGE, "no command named rollout histroy. Did you mean history?", "rollout --help"),
    ("rollout simulate ttft_pipeline", USAGE, "arguments are required: --rate, --rps", "simulate --help"),
    (
        "rollout simulate ttft_pipeline --rate 101% --rps 10",
        USAGE,
        "argument --rate: is 101%; it must be a percentage from 0 to 100, such as 1%",
        "simulate --help",
    ),
    ("rollout simulate ttft_pipeline --rate 1% --rps 0", USAGE, "argument --rps: is 0; it must be", "--help"),
    ("rollout simulate ttft_pipline --rate 1 --rps 1", USAGE, "Did you mean ttft_pipeline?", "Features: "),
    (
        "rollout simulate ttft_pipeline --rate 1 --rps 1 --at fulll",
        USAGE,
        "no stage named fulll has a hold.",
        "Stages: canary, early, mid.",
    ),
    (
        "rollout simulate ttft_pipeline --rate 1 --rps 1 --runs many",
        USAGE,
        "argument --runs: is many;",
        "--help",
    ),
    ("rollout export", USAGE, "the following arguments are required: --format", "rollout export --help"),
    ("rollout export --format yaml", USAGE, "argument --format: invalid choice: 'yaml'", "export --help"),
    ("completion", USAGE, "the following arguments are required: SHELL", "wicketgate completion --help"),
    ("completion tcsh", USAGE, "argument SHELL: invalid choice: 'tcsh'", "wicketgate completion --help"),
    ("rollout kill ttft_pipeline", USAGE, "rollout kill takes no argument ttft_pipeline.", "kill --help"),
    ("rollout kill --yes", USAGE, "rollout kill takes no option --yes.", "wicketgate rollout kill --help"),
    ("rollout unkil", USAGE, "no command named rollout unkil. Did you mean unkill?", "rollout --help"),
    ("rollout validate nope.yaml --fix", USAGE, "validate takes no option --fix.", "validate --help"),
    ("rollout rollback", USAGE, "rollback needs the name of a feature, or --all", "rollback --help"),
    ("status", ExitCode.UNREACHABLE, "no gateway is running at", "Start one: wicketgate serve"),
]


@pytest.fixture
def options(tmp_path, monkeypatch, capsys) -> list[str]:
    """A configuration and a ledger with some history, and no gateway."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mill.yaml").write_text(CONFIG)
    options = ["--config", "mill.yaml", "--state-dir", str(tmp_path / "state")]
    for words in BEFORE:
        assert run([*words, *options]) == ExitCode.DONE
    capsys.readouterr()
    return options


def with_place(line: str, options: list[str]) -> list[str]:
    """Split a command line, and add the place where the command takes one."""
    words = line.split()
    takes_place = words[0] in ("status", "rollback") or (words[0] == "rollout" and len(words) > 2)
    return [*words, *options] if takes_place and words[-1] not in ("--reason", "--wait") else words


@pytest.mark.parametrize(("line", "code", "cause", "fix"), WRONG, ids=[each[0] for each in WRONG])
def test_a_wrong_command_is_told_cause_and_fix(options, capsys, line, code, cause, fix):
    assert run(with_place(line, options)) == code

    captured = capsys.readouterr()
    notes = [each for each in captured.err.splitlines() if not each.startswith("No gateway is running")]
    assert captured.out == ""
    assert notes[0].startswith("error: ")
    assert cause in notes[0]
    assert (fix in notes[1]) if fix else len(notes) == 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(("line", "code", "cause", "fix"), WRONG, ids=[each[0] for each in WRONG])
def test_under_json_it_is_told_as_one_object(options, capsys, line, code, cause, fix):
    words = with_place(line, options)
    place = len(words) - 1 if words[-1] in ("--reason", "--wait") else len(words)

    assert run([*words[:place], "--json", *words[place:]]) == code

    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["ok"]) == ("wicketgate.error/1", False)
    assert set(document["error"]) == {"message", "fix", "exit", "where"}
    assert document["error"]["exit"] == code
    assert cause in document["error"]["message"]
    assert (fix in document["error"]["fix"]) if fix else document["error"]["fix"] is None


def test_an_unkill_asks_and_there_is_nobody(options, capsys):
    assert run(["rollout", "kill", *options]) == ExitCode.DONE
    capsys.readouterr()

    assert run(["rollout", "unkill", *options]) == USAGE

    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: this asks first, and there is nobody to ask: Release the kill switch")
    assert lines[1] == "  Pass --yes to answer yes. Nothing was done."


def test_no_wrong_command_changes_the_ledger(options, tmp_path):
    for line, *_ in WRONG:
        run(with_place(line, options))

    assert Ledger(tmp_path / "state" / "ledger.db").verify() == len(BEFORE)


def test_a_configuration_that_does_not_exist_is_named(options, capsys):
    assert run(["rollback", "--all", "--config", "nope.yaml"]) == USAGE

    assert "error: no file nope.yaml" in capsys.readouterr().err


def test_faults_of_the_configuration_are_told_with_their_place(options, tmp_path, capsys):
    (tmp_path / "mill.yaml").write_text(
        "phase4_rollout:\n  ttft_pipeline: {enabled: true, rollout_percentage: 101}\n"
    )

    assert run(["rollout", "start", "ttft_pipeline", *options]) == USAGE
    assert "mill.yaml:2:54" in capsys.readouterr().err

    assert run(["rollout", "start", "ttft_pipeline", "--json", *options]) == USAGE
    where = json.loads(capsys.readouterr().out)["error"]["where"]
    assert (where["file"], where["line"], where["column"]) == ("mill.yaml", 2, 54)
    assert where["key"] == "phase4_rollout.ttft_pipeline.rollout_percentage"
