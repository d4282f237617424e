"""Pins what a runtime.yaml means: defaults, units, paths, features, what changed, and when it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollout.spec import DEFAULT_SPEC, Key, Mode
from wicketgate.config import ConfigurationFaultsError, RuntimeConfig, Watcher, load
from wicketgate.config_fields import is_loopback, split_bind, to_bytes, to_percent, to_seconds

SAFE_START = """\
phase4_rollout:
  adaptive_governor:
    enabled: true
    rollout_percentage: 1  # Canary

  http2_transport:
    enabled: false

  ttft_pipeline:
    enabled: false

  qos_monitoring:
    enabled: true
    sample_rate: 10  # 10% sampling
"""
PRODUCTION = """\
phase4_rollout:
  adaptive_governor:
    enabled: true
    rollout_percentage: 100

  http2_transport:
    enabled: true
    rollout_percentage: 100

  ttft_pipeline:
    enabled: true
    rollout_percentage: 100

  qos_monitoring:
    enabled: true
    sample_rate: 1  # 100% sampling
"""


def test_the_safe_start_of_the_requirement_loads_unchanged() -> None:
    features = load(None, text=SAFE_START).rollout.features

    assert {name: (f.enabled, f.rollout_percentage) for name, f in features.items()} == {
        "adaptive_governor": (True, 1.0),
        "http2_transport": (False, 100.0),
        "ttft_pipeline": (False, 100.0),
        "qos_monitoring": (True, 100.0),
    }
    assert features["qos_monitoring"].settings == {"sample_rate": 10}


def test_the_production_file_of_the_requirement_loads_unchanged() -> None:
    features = load(None, text=PRODUCTION).rollout.features

    assert all(f.enabled and f.rollout_percentage == 100 for f in features.values())
    assert features["qos_monitoring"].settings == {"sample_rate": 1}


def test_neither_file_of_the_requirement_raises_a_doubt() -> None:
    assert load(None, text=SAFE_START).warnings == load(None, text=PRODUCTION).warnings == ()


@pytest.mark.parametrize("text", [None, "{}", "name: x", "# nothing but a comment\nname: x"])
def test_without_a_rollout_section_every_feature_is_on(text: str | None) -> None:
    spec = load(None, text=text).rollout

    for name, feature in spec.features.items():
        declared = DEFAULT_SPEC.features[name]
        assert (feature.enabled, feature.mode, feature.key) == (declared.enabled, declared.mode, declared.key)
        assert feature.rollout_percentage == declared.rollout_percentage == 100
    assert list(spec.features) == list(DEFAULT_SPEC.features)
    assert spec.stages == DEFAULT_SPEC.stages
    assert not spec.kill_switch


def test_a_feature_that_the_rollout_section_does_not_name_is_off() -> None:
    features = load(None, text="phase4_rollout: {ttft_pipeline: {enabled: true}}").rollout.features

    assert [name for name, feature in features.items() if feature.enabled] == ["ttft_pipeline"]


def test_every_part_of_a_feature_reaches_the_spec() -> None:
    text = """
phase4_rollout:
  kill_switch: true
  stages: [{name: one, percentage: 2.5%, hold_s: 1h30m}, {name: all, percentage: 100}]
  adaptive_governor: {enabled: true}
  ttft_pipeline:
    {enabled: true, rollout_percentage: 12.345, mode: staged, key: user, requires: [adaptive_governor]}
"""
    spec = load(None, text=text).rollout

    feature = spec.features["ttft_pipeline"]
    assert (feature.rollout_percentage, feature.mode, feature.key) == (12.345, Mode.STAGED, Key.USER)
    assert feature.requires == ("adaptive_governor",)
    assert [(s.name, s.percentage, s.hold_s) for s in spec.stages] == [
        ("one", 2.5, 5400.0),
        ("all", 100.0, None),
    ]
    assert spec.kill_switch


def test_a_percentage_below_one_is_doubted_and_kept() -> None:
    config = load(None, text="phase4_rollout:\n  ttft_pipeline: {enabled: true, rollout_percentage: 0.5}\n")

    (warning,) = config.warnings
    assert (warning.line, warning.column, warning.severity) == (2, 54, "warning")
    assert warning.message == (
        "ttft_pipeline.rollout_percentage is 0.5, which means 0.5 %. "
        'Write 50 for half of all traffic, or "0.5%" to silence this.'
    )
    assert config.rollout.features["ttft_pipeline"].rollout_percentage == 0.5


def test_a_percent_sign_silences_the_doubt() -> None:
    config = load(None, text="phase4_rollout: {ttft_pipeline: {enabled: true, rollout_percentage: 0.5%}}")

    assert config.warnings == ()
    assert config.rollout.features["ttft_pipeline"].rollout_percentage == 0.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("24h", 86_400.0), ("1m30s", 90.0), ("1m 30s", 90.0), ("2d", 172_800.0), ("10us", 1e-5)],
)
def test_durations_take_a_unit(text: str, seconds: float) -> None:
    assert to_seconds(text) == seconds


@pytest.mark.parametrize("value", ["10", "10 parsecs", "-1s", "s", "1s,", "", 10, None, True])
def test_what_is_no_duration_is_left_for_the_schema_to_refuse(value: object) -> None:
    assert to_seconds(value) is value


@pytest.mark.parametrize(
    ("text", "size"),
    [("8MiB", 8 << 20), ("1GB", 10**9), ("1.5 kB", 1500), ("12B", 12), ("2tib", 2 << 40)],
)
def test_sizes_take_a_unit(text: str, size: int) -> None:
    assert to_bytes(text) == size


@pytest.mark.parametrize("value", ["8M", "1.5B", "MiB", 8])
def test_what_is_no_size_is_left_for_the_schema_to_refuse(value: object) -> None:
    assert to_bytes(value) is value


def test_percentages_take_a_sign() -> None:
    assert (to_percent("0.5 %"), to_percent("1%"), to_percent("half"), to_percent(3)) == (0.5, 1.0, "half", 3)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "1:30", "0x10", "1_000"])
def test_words_that_yaml_1_1_would_convert_stay_text(word: str) -> None:
    assert load(None, text=f"models: [{{path: x, id: {word}}}]").models[0].name == word


def test_a_byte_order_mark_is_ignored() -> None:
    assert load(None, text="\ufeffname: x").name == "x"


def test_blas_can_be_off_without_quotes() -> None:
    assert load(None, text="engine: {blas: off}").engine.blas == "off"


def test_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_text("state_dir: here\nmodel: org/local\nlogs: {requests_file: /var/x}\n")
    (tmp_path / "org" / "local").mkdir(parents=True)

    config = load(file)

    assert config.state_dir == tmp_path / "here"
    assert config.models[0].path == config.model == str(tmp_path / "org" / "local")
    assert config.logs.requests_file == Path("/var/x")


def test_a_hub_id_is_kept_where_no_such_folder_is() -> None:
    config = load(None, text="model: mlx-community/tiny-4bit")

    assert [(entry.name, entry.path) for entry in config.models] == [
        ("tiny-4bit", "mlx-community/tiny-4bit"),
    ]


def test_the_home_folder_is_written_as_a_tilde() -> None:
    assert load(None, text="state_dir: ~/x").state_dir == Path.home() / "x"


@pytest.mark.parametrize(
    ("bind", "address", "loopback"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000), True),
        ("localhost:0", ("localhost", 0), True),
        ("[::1]:80", ("::1", 80), True),
        ("0.0.0.0:80", ("0.0.0.0", 80), False),
        ("my-mac.local:80", ("my-mac.local", 80), False),
    ],
)
def test_an_address_is_host_and_port(bind: str, address: tuple[str, int], loopback: bool) -> None:
    assert split_bind(bind) == address
    assert is_loopback(address[0]) is loopback


def test_with_api_keys_other_machines_may_reach_a_listener() -> None:
    config = load(None, text="server: {bind: '0.0.0.0:80'}\nsecurity: {api_keys_file: keys}")

    assert config.server.bind == "0.0.0.0:80"


def test_both_listeners_may_take_a_free_port() -> None:
    assert load(None, text="server: {bind: 127.0.0.1:0}\nadmin: {bind: 127.0.0.1:0}").server.bind.endswith(
        ":0"
    )


def test_changes_are_told_apart_by_whether_they_need_a_restart() -> None:
    before = load(None, text="governor: {limit: {max: 100}}")
    after = load(None, text="server: {bind: 127.0.0.1:1, hold_headers_s: 2}\nmodel: /x\nlogs: {level: debug}")

    hot, restart = before.changed(after)

    assert hot == ["server.hold_headers_s", "governor.limit.max", "logs.level"]
    assert restart == ["server.bind", "model", "models"]


def test_the_limits_of_callers_are_followed_without_a_restart() -> None:
    before = load(None, text="security: {per_key: {streams: 1}}")
    after = load(None, text="security: {per_address: {requests_per_minute: 5}}")

    assert before.changed(after) == (
        ["security.per_key.streams", "security.per_address.requests_per_minute"],
        [],
    )


def test_the_same_values_written_otherwise_are_no_change() -> None:
    short = load(None, text="server: {keep_alive_s: 1m30s, max_body_bytes: 1MiB}\nlogs: {level: info}")
    long = load(None, text="server:\n  keep_alive_s: 90\n  max_body_bytes: 1048576\n")

    assert short.changed(long) == ([], [])


@pytest.mark.parametrize(
    ("content", "line", "column", "message"),
    [
        (b"name: a\nstate_dir: \xff\n", 2, 12, "cannot read this line: it is not UTF-8."),
        (b"#" * ((1 << 20) + 1), 1, 1, "the file is larger than 1 MiB."),
        (b"", 1, 1, "the file is empty."),
    ],
)
def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, content: bytes, line: int, column: int, message: str
) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_bytes(content)

    with pytest.raises(ConfigurationFaultsError) as raised:
        load(file)

    (fault,) = raised.value.faults
    assert (fault.file, fault.line, fault.column, fault.message) == (str(file), line, column, message)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFaultsError, match="cannot read the file: no such file or directory"):
        load(tmp_path / "none.yaml")


class Edited:
    """A file whose every write has a later time, as real edits have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._time_s = 1_000_000

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self._time_s += 1
        os.utime(self.path, (self._time_s, self._time_s))


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    file = Edited(tmp_path / "runtime.yaml")
    file.write("name: a\n")
    return file


def test_an_unchanged_file_is_not_read_again(edited: Edited) -> None:
    watcher = Watcher(edited.path)

    assert [watcher.poll() for _ in range(3)] == [None, None, None]


def test_a_changed_file_is_read_once_when_it_stands_still(edited: Edited) -> None:
    watcher = Watcher(edited.path)
    edited.write("name: b\n")

    seen = [watcher.poll() for _ in range(3)]

    assert [config.name if isinstance(config, RuntimeConfig) else config for config in seen] == [
        None,
        "b",
        None,
    ]


def test_what_the_command_line_says_stays_over_a_changed_file(edited: Edited) -> None:
    watcher = Watcher(edited.path, override=lambda config: config.model_copy(update={"name": "ours"}))
    edited.write("name: b\n")

    seen = [watcher.poll() for _ in range(2)]

    assert isinstance(seen[1], RuntimeConfig)
    assert seen[1].name == "ours"


def test_a_file_that_an_editor_has_emptied_is_not_taken_at_its_word(edited: Edited) -> None:
    watcher = Watcher(edited.path)
    edited.write("")
    during = watcher.poll()
    edited.write("name: c\n")

    after = [watcher.poll(), watcher.poll()]

    assert during is None
    assert after[0] is None
    assert isinstance(after[1], RuntimeConfig)


def test_a_bad_change_is_told_once_and_the_next_good_one_is_read(edited: Edited) -> None:
    watcher = Watcher(edited.path)
    edited.write("nam: b\n")
    bad = [watcher.poll() for _ in range(3)]
    edited.write("name: d\n")

    good = [watcher.poll() for _ in range(2)]

    assert [type(told) for told in bad] == [type(None), ConfigurationFaultsError, type(None)]
    assert isinstance(good[1], RuntimeConfig)


def test_a_file_that_vanishes_and_comes_back_is_noticed(edited: Edited) -> None:
    watcher = Watcher(edited.path)
    edited.path.unlink()
    gone = [watcher.poll() for _ in range(3)]
    edited.write("name: e\n")

    back = [watcher.poll() for _ in range(2)]

    assert [type(told) for told in gone] == [type(None), ConfigurationFaultsError, type(None)]
    assert isinstance(back[1], RuntimeConfig)
