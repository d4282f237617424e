"""Pins that the sections of runtime.yaml agree with the parameters of the cores that they become."""

from __future__ import annotations

from dataclasses import fields, replace

from governor.admission import AdmissionParams
from governor.limit import LimitParams
from governor.pid import PidParams
from qos.objective import Objective, Signal
from qos.policy import MonitorParams
from wicketgate.config import RuntimeConfig, load
from wicketgate.config_cores import PidSection
from wicketgate.config_document import dotted
from wicketgate.config_keys import keys_of
from wicketgate.config_rollout import FEATURES, RolloutSection


def test_the_default_limit_is_the_cores_own_but_for_where_it_starts() -> None:
    assert RuntimeConfig().governor.limit_params() == replace(LimitParams(), initial=96)


def test_the_default_admission_is_the_cores_own() -> None:
    assert RuntimeConfig().governor.admission_params() == AdmissionParams()


def test_the_default_monitor_is_the_cores_own_with_the_three_promises() -> None:
    params = RuntimeConfig().qos.params()

    assert params == MonitorParams(
        objectives=(
            Objective(name="ttft-p95", signal=Signal.TTFT, target_ratio=0.95, threshold_s=0.55),
            Objective(name="itl-p95", signal=Signal.ITL, target_ratio=0.95, threshold_s=0.05),
            Objective(name="errors", signal=Signal.ERROR, target_ratio=0.999),
        )
    )


def test_the_controller_has_the_same_keys_as_its_core() -> None:
    assert list(PidSection.model_fields) == [field.name for field in fields(PidParams)]


def test_every_value_reaches_the_core_under_its_own_name() -> None:
    text = """
governor:
  limit: {fixed: 11, min: 12, max: 14, initial: 13}
  tpot_objective_s: 15ms
  setpoint_ratio: 0.16
  elasticity: 1.7
  window_s: 18
  period_s: 1.9
  min_steps: 20
  stale_after_s: 21
  pid: {kp: 0.22, ki_per_s: 0.23, kd_s: 0.24, derivative_filter_s: 25, deadband_log: 0.26,
        max_step_up_log: 0.27, max_step_down_log: 0.28}
  queue: {max_requests: 29, max_wait_s: 30, retry_after_max_s: 31}
qos: {window_s: 32, warn_nats: 3.3, act_nats: 34, recover_after_s: 35, min_events: 36,
      objectives: [{name: a, signal: itl, target_ratio: 0.9, threshold_s: 37ms}]}
"""
    config = load(None, text=text)

    assert config.governor.limit_params() == LimitParams(
        min=12,
        max=14,
        initial=13,
        tpot_objective_s=0.015,
        setpoint_ratio=0.16,
        elasticity=1.7,
        window_s=18.0,
        period_s=1.9,
        min_steps=20,
        stale_after_s=21.0,
        pid=PidParams(
            kp=0.22,
            ki_per_s=0.23,
            kd_s=0.24,
            derivative_filter_s=25.0,
            deadband_log=0.26,
            max_step_up_log=0.27,
            max_step_down_log=0.28,
        ),
    )
    assert config.governor.admission_params() == AdmissionParams(
        fixed_limit=11, max_queued=29, max_wait_s=30.0, retry_after_max_s=31.0
    )
    assert config.qos.params() == MonitorParams(
        objectives=(
            Objective(name="a", signal=Signal.ITL, target_ratio=0.9, threshold_s=0.037, min_events=36),
        ),
        window_s=32.0,
        warn_nats=3.3,
        act_nats=34.0,
        recover_after_s=35.0,
    )


def test_only_the_four_features_are_sections_of_the_rollout() -> None:
    sections = [key.name for key in keys_of(RolloutSection) if key.section and len(key.path) == 1]

    assert [name for name in sections if name not in ("guard", "drill")] == list(FEATURES)


def test_a_path_is_told_with_dots_and_brackets() -> None:
    assert dotted(("models", 0, "path")) == "models[0].path"
