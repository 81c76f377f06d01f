"""The flags that choose a method, on a command line of their own or with an earlier run's settings."""

import pytest
from lstm_runs import execute, refused, values_of

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
@pytest.mark.parametrize("flag", ["--delta_stn", "--method delta_stn", "--delta_stn --linearize"])
def test_the_delta_stn_by_either_name(script, flag):
    values = values_of(script, f"{TUNE} {flag}")
    assert (values["method"], values["linearize"]) == ("delta_stn", True)
    assert feeds(script, values) == {"centred"}
    assert not {"delta_stn", "no_linearize"} & values.keys()  # one choice is recorded once


@each_script
def test_the_stn_is_the_default(script):
    values = values_of(script, TUNE)
    assert values["method"] == "stn"
    assert feeds(script, values) == {"centred" if script is train else "unconstrained"}


@each_script
def test_flags_outrank_the_run_that_is_followed(script):
    for flag in ("--delta_stn", "--method delta_stn"):
        assert followed(script, flag)["method"] == "delta_stn" and feeds(script, followed(script, flag)) == {"centred"}
    assert followed(script, "--method stn", "--delta_stn")["method"] == "stn"
    assert followed(script, "--linearize", "--delta_stn --no_linearize")["linearize"] is True
    assert followed(script, "--no_linearize", "--delta_stn")["linearize"] is False


def test_a_runs_folder_is_named_after_its_method_and_recipe():
    values = values_of(hypertrain, f"{TUNE} --method delta_stn --recipe delta_stn --train_lr 1e-3")
    assert values["label"] == "methoddelta_stn_recipedelta_stn_train_lr0.001_tune_all"


def test_the_record_says_what_the_delta_stn_feeds():
    values = followed(train, "--delta_stn", "--drop_transform sigmoid --alpha_beta_transform softplus")
    assert (values["drop_transform"], values["alpha_beta_transform"]) == ("centred", "centred")


def test_each_transform_is_what_the_response_sees():
    sources = train.sources(values_of(train, "--tune_all --drop_transform centred --alpha_beta_transform none"))
    feeds = {name: source.feed for name, source in sources.items()}
    rates = dict.fromkeys(("dropouto", "dropouti", "dropouth", "dropoute", "wdrop"), "centred")
    assert feeds == dict.fromkeys(("alpha", "beta"), "unconstrained") | rates


@each_script
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--response_lr 0.1", "--response_lr has nothing to act on: add --method delta_stn"),
        ("--no_linearize", "--linearize and --no_linearize have nothing to act on: add --method delta_stn"),
    ],
)
def test_flags_that_do_nothing_are_refused(script, flags, words):
    with pytest.raises(UserError, match=words):
        values_of(script, f"{TUNE} {flags}")


@each_script
@pytest.mark.parametrize("flags", ["--delta_stn --method stn", "--delta_stn --linearize --no_linearize"])
def test_flags_that_contradict_each_other_are_refused(script, flags, capsys):
    refused(execute(script, [*TUNE.split(), *flags.split()], capsys), "not allowed with", script=script.SCRIPT.name)


def test_transforms_belong_to_the_stn():
    with pytest.raises(UserError, match="--drop_transform has nothing to act on: leave out --method delta_stn"):
        values_of(train, f"{TUNE} --delta_stn --drop_transform sigmoid")
