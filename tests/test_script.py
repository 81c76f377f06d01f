"""A training script: from the flags to settings and sources, to args.yaml, and from there to the same again."""

from argparse import ArgumentTypeError
from contextlib import suppress

import pytest
import yaml
from lstm_runs import values_of
from run_folders import refused

import cnn.hypertrain
import cnn.train_basic
import lstm.train
import lstm.train_basic

COMMON = "--data builtin --threads 1 --dtype float32"
FLAGS = {
    lstm.train: "--tune_all --tune_scales --alpha 0.25 --wdrop 0.5 --perturb_scale 2 --drop_transform none",
    lstm.train_basic: "--perturb_alpha --perturb_wdrop --alpha 2 --perturb_type sinusoid --amplitude 0.5",
    cnn.hypertrain: "-tall -m small -drop 0.25 -cutl 5 -clscl 2 --milestones 2 4 --save -tscl -ewt 0.01",
    cnn.train_basic: "--model small --dropout 0.25 --hue 0.5 --cutholes 40 --brightness 1.5 --milestones 3",
}
each_script = pytest.mark.parametrize("script", FLAGS, ids=[module.__name__ for module in FLAGS])


def reread(script, values):
    """Values as args.yaml keeps them."""
    return yaml.safe_load(yaml.safe_dump({"script": script.SCRIPT.path, **values}))


def other_value(flag):
    """A flag on the command line with another value than its default."""
    if flag.check is None:
        return [f"--{flag.name}"]
    for word in ("7", "0.5", "small", "bfloat16", "sinusoid", "sigmoid", "softplus", "mine.pt"):
        with suppress(ArgumentTypeError):
            if flag.check(word) != flag.default:
                return [f"--{flag.name}", word]
    raise AssertionError(f"no value for {flag}")


@each_script
def test_args_yaml_makes_the_same_settings_and_sources(script, tmp_path):
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    again = own.resumed_values(tmp_path, reread(script, values), {})
    assert {name: again[name] for name in values} == values
    assert own.make(again) == own.make(values)
    assert own.sources(again) == own.sources(values)


@each_script
def test_every_flag_reaches_args_yaml_and_the_settings(script, tmp_path):
    """One by one, each with another value than its default."""
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    assert values.keys() >= own.flags.keys()
    settings = {flag.name for flag in own.setting_flags}
    for name, flag in own.flags.items():
        if name == "load_schedule":  # a run reads its own copy
            continue
        given = own.parse(other_value(flag))
        assert [*given] == [name] and given[name] != flag.default
        again = own.resumed_values(tmp_path, reread(script, {**values, **given}), {})
        assert again[name] == given[name]
        if name in settings:
            found = getattr(own.make(again), name)
            assert found == (tuple(given[name]) if flag.many else given[name])


@each_script
def test_only_what_may_change_can_be_given_anew(script, tmp_path):
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    for name, flag in own.flags.items():
        given = own.parse(other_value(flag))
        if flag.may_change:
            assert own.resumed_values(tmp_path, reread(script, values), given)[name] == given[name]
        elif name != "data" and values[name] != given[name]:
            refused(lambda given=given: own.resumed_values(tmp_path, reread(script, values), given), f"--{name} ")
            assert own.resumed_values(tmp_path, reread(script, values), {name: values[name]})[name] == values[name]


@each_script
@pytest.mark.parametrize("name", ["seed", "threads", "data"])
def test_what_a_run_has_chosen_is_there(script, tmp_path, name):
    values = values_of(script, f"{FLAGS[script]} {COMMON}")
    record = {**reread(script, values), name: None}
    refused(lambda: script.SCRIPT.resumed_values(tmp_path, record, {}), f"args.yaml says {name}: None", "mend it")
