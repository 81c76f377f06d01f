"""The flags that choose a method, on a command line of their own or with an earlier run's settings."""

import pytest
from lstm_runs import values_of

from cnn import hypertrain
from lstm import train
from stn.errors import UserError

TUNE = "--tune_all --data builtin"
each_script = pytest.mark.parametrize("script", [train, hypertrain], ids=["lstm", "cnn"])


def followed(script, flags, *earlier):
    """The values of a run with these flags and the settings of another."""
    own = script.SCRIPT
    config = values_of(script, " ".join((TUNE, *earlier)))
    values, *_ = own.prepare(own.parse(flags.split()), {name: config[name] for name in own.flags})
    return values


def feeds(script, values):
    return {getattr(source, "feed", None) for source in script.SCRIPT.sources(values).values()} - {None}


@each_script
@pytest.mark.parametrize("flag", ["--delta_stn", "--method delta_stn", "--method delta_stn --delta_stn --linearize"])
def test_the_delta_stn_by_either_name(script, flag):
    values = values_of(script, f"{TUNE} {flag}")
    assert (values["method"], values["delta_stn"], values["linearize"]) == ("delta_stn", True, True)
    assert feeds(script, values) == {"centred"}
    settings = script.SCRIPT.make(values)
    assert settings.method == "delta_stn" and not settings.no_linearize


@each_script
def test_the_stn_is_the_default(script):
    values = values_of(script, TUNE)
    assert (values["method"], values["delta_stn"], values["linearize"]) == ("stn", False, False)
    assert "centred" not in feeds(script, values)


@each_script
def test_flags_outrank_the_run_that_is_followed(script):
    for flag in ("--delta_stn", "--method delta_stn"):
        assert followed(script, flag)["delta_stn"] and feeds(script, followed(script, flag)) == {"centred"}
    back = followed(script, "--method stn", "--delta_stn")
    assert (back["method"], back["delta_stn"]) == ("stn", False) and "centred" not in feeds(script, back)
    again = followed(script, "--linearize", "--delta_stn --no_linearize")
    assert again["linearize"] and not again["no_linearize"]
    assert followed(script, "--no_linearize", "--delta_stn")["linearize"] is False


def test_what_the_delta_stn_does_not_feed_is_not_recorded():
    values = followed(train, "--delta_stn")
    assert (values["drop_transform"], values["alpha_beta_transform"]) == ("none", "none")


@each_script
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--delta_stn --method stn", "leave one of the two out"),
        ("--delta_stn --linearize --no_linearize", "contradict each other"),
        ("--response_lr 0.1", "--response_lr has nothing to act on: add --method delta_stn"),
        ("--no_linearize", "--no_linearize has nothing to act on: add --method delta_stn"),
    ],
)
def test_flags_that_contradict_or_do_nothing_are_refused(script, flags, words):
    with pytest.raises(UserError, match=words):
        values_of(script, f"{TUNE} {flags}")


def test_transforms_belong_to_the_stn():
    with pytest.raises(UserError, match="--drop_transform has nothing to act on: train by the STN"):
        values_of(train, f"{TUNE} --delta_stn --drop_transform sigmoid")
