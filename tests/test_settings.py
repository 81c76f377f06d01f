"""Settings of runs: typed, frozen, and each declared with its flag."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from run_folders import refused

from cnn.rate_settings import RateSettings
from cnn.settings import ImageSettings
from lstm.settings import LanguageModelSettings
from stn.scripts.flags import TUNING, flags_of

LANGUAGE = LanguageModelSettings(data="builtin", seed=1, threads=1, dtype="float32")
IMAGES = ImageSettings(data="builtin", seed=1, threads=1, dtype="float32", label="")
RATES = RateSettings(data="builtin", seed=1, threads=1, dtype="float32", label="")
each = pytest.mark.parametrize("settings", [LANGUAGE, IMAGES, RATES], ids=["language", "images", "learning rates"])


@each
def test_they_cannot_change(settings):
    with pytest.raises(FrozenInstanceError):
        settings.batch_size = 3
    assert replace(settings, batch_size=3).batch_size == 3 != settings.batch_size


def test_what_is_left_open_is_chosen():
    settings = LanguageModelSettings(data="builtin")
    assert settings.threads == torch.get_num_threads() and settings.dtype in ("float32", "bfloat16")
    assert settings.device in ("cpu", "cuda:0")
    seeds = {LanguageModelSettings(data="builtin").seed for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**32 for seed in seeds)
    assert replace(settings).seed == settings.seed


WRONG = {"bptt": -3, "epochs": "x", "lr": "30", "threads": 1.5, "dtype": "float16", "clip": True}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_its_flag_would_not_take_is_refused(name):
    refused(lambda: replace(LANGUAGE, **{name: WRONG[name]}), f"{name} cannot be {WRONG[name]!r}")


@each
def test_a_misspelt_name_raises(settings):
    with pytest.raises(TypeError, match="batchsize"):
        replace(settings, batchsize=3)


@each
def test_every_field_has_a_flag_of_its_name_and_default_or_is_derived(settings):
    flags = {flag.name: flag for flag in flags_of(type(settings))}
    without = {own.name for own in fields(settings)} - flags.keys()
    assert without - {"min_lr", "lr_schedule"} == {*settings.DERIVED}
    for name, flag in flags.items():
        if name not in ("data", "seed", "threads", "dtype"):
            found = getattr(settings, name)
            assert found == (tuple(flag.default) if flag.many else flag.default)
            assert flag.accepts(flag.default)


def test_a_script_may_have_flags_in_another_way():
    flags = {flag.name: flag for flag in flags_of(ImageSettings, TUNING, model={"aliases": ("-a",)})}
    assert (
        "valid_lr" not in flags
        and "seed" in flags
        and flags["model"].aliases == ("-a",)
        and flags["model"].default == "alexnet"
    )
    assert next(flag for flag in flags_of(ImageSettings) if flag.name == "model").aliases == ()


def test_a_learning_rate_at_which_training_stops_is_refused():
    refused(lambda: replace(LANGUAGE, lr=1e-4), "--lr 0.0001", "0.0003")
    refused(lambda: replace(IMAGES, train_lr=1e-6), "--train_lr 1e-06", "1e-05")
    assert replace(IMAGES, train_lr=1e-6, min_lr=1e-7).train_lr == 1e-6


@pytest.mark.usefixtures("few_images")
@each
def test_data_that_changed_is_refused(settings):
    place, _ = settings.locate({**vars(settings), "data": "builtin", "load_schedule": None})
    settings = replace(settings, data=place, batch_size=4)
    checksum = settings.load().checksum
    assert replace(settings, data_checksum=checksum).load().checksum == checksum
    refused(lambda: replace(settings, data_checksum="another").load(), f"{place} does not hold what", "restore")
