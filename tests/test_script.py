"""A training script: from the flags to settings and sources, to args.yaml, and from there to the same again."""

import os
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from lstm_runs import values_of
from run_folders import refused

import cnn.hypertrain
import cnn.train_basic
import cnn.train_lr
import lstm.train
import lstm.train_basic
from stn.scripts.records import resumed_values

COMMON = "--data builtin --threads 1 --dtype float32"
FLAGS = {
    lstm.train: "--tune_all --tune_scales --alpha 0.25 --wdrop 0.5 --perturb_scale 2 --drop_transform none",
    lstm.train_basic: "--perturb_alpha --perturb_wdrop --alpha 2 --perturb_type sinusoid --amplitude 0.5",
    cnn.hypertrain: "-tall -m small -drop 0.25 -cutl 5 -clscl 2 --milestones 2 4 --save -tscl -ewt 0.01",
    cnn.train_lr: "--network lenet --dataset mnist --hyper-lr 0.5 --mu -1 --nesterov --grad-clipping 2",
    cnn.train_basic: "--model small --dropout 0.25 --hue 0.5 --cutholes 40 --brightness 1.5 --milestones 3",
}
each_script = pytest.mark.parametrize("script", FLAGS, ids=[module.__name__ for module in FLAGS])


def reread(script, values):
    """Values as args.yaml keeps them."""
    return yaml.safe_load(yaml.safe_dump({"script": script.SCRIPT.path, **values}))


def resumed(script, values, given):
    """The values of a run that was started with these and goes on with these flags."""
    record = reread(script, values)
    return resumed_values(script.SCRIPT, Path("run"), record, record, given)


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def other_value(flag):
    """A flag on the command line with another value than its default."""
    if flag.check is None:
        return [f"--{next(iter(flag.switches)) if flag.default else flag.name}"]
    words = "7 0.5 small mnist bfloat16 sinusoid sigmoid softplus mine.pt delta_stn rmsprop marthe hd lenet adam"
    for word in words.split():
        with suppress(ArgumentTypeError):
            if flag.check(word) != flag.default:
                return [f"--{flag.name}", word]
    raise AssertionError(f"no value for {flag}")


@each_script
def test_args_yaml_makes_the_same_settings_and_sources(script):
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    again = resumed(script, values, {})
    assert {name: again[name] for name in values} == values
    assert own.make(again) == own.make(values)
    assert own.sources(again) == own.sources(values)


@each_script
def test_every_flag_reaches_args_yaml_and_the_settings(script):
    """One by one, each with another value than its default."""
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    assert values.keys() >= own.flags.keys()
    settings = {flag.name for flag in own.setting_flags}
    for name, flag in own.flags.items():
        if name == "load_schedule":  # a run reads its own copy
            continue
        given = own.parse(other_value(flag))
        assert [*given] == [name] and given[name] != flag.default
        again = resumed(script, {**values, **given}, {})
        assert again[name] == given[name]
        if name in settings:
            found = getattr(own.make(again), name)
            assert found == (tuple(given[name]) if flag.many else given[name])


@each_script
def test_only_what_may_change_can_be_given_anew(script):
    own, values = script.SCRIPT, values_of(script, f"{FLAGS[script]} {COMMON}")
    for name, flag in own.flags.items():
        given = own.parse(other_value(flag))
        if flag.may_change:
            assert resumed(script, values, given)[name] == given[name]
        elif name not in ("data", *own.settings.PLACES) and values[name] != given[name]:
            refused(lambda given=given: resumed(script, values, given), f"--{name} ")
            assert resumed(script, values, {name: values[name]})[name] == values[name]


@each_script
def test_a_run_may_go_on_with_another_device(script):
    own, cpu = script.SCRIPT, script.SCRIPT.settings.cpu_flag
    values = values_of(script, f"{FLAGS[script]} {COMMON} --{cpu}")
    assert resumed(script, values, {})["device"] == "cpu"
    again = resumed(script, values, own.parse(["--gpu", "1"]))
    assert (again["device"], again["gpu"], again[cpu]) == (None, 1, False)
    again = resumed(script, {**values, "device": "cuda:1", cpu: False}, own.parse([f"--{cpu}"]))
    assert (again["device"], again[cpu]) == (None, True) and own.make(again).device == "cpu"
    refused(lambda: resumed(script, values, own.parse([f"--{cpu}", "--gpu", "1"])), "--gpu has nothing to act on")


@each_script
@pytest.mark.parametrize("name", ["seed", "threads", "data"])
def test_what_a_run_has_chosen_is_there(script, name):
    values = values_of(script, f"{FLAGS[script]} {COMMON}")
    refused(lambda: resumed(script, {**values, name: None}, {}), f"args.yaml says {name}: None", "mend it")
