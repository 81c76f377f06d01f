"""Flags: what they accept, which of them were given, what --help says of them."""

import re

import pytest
from lstm_runs import execute

import cnn.hypertrain
import cnn.train_basic
import cnn.train_lr
import lstm.train
import lstm.train_basic
from stn.errors import UserError
from stn.scripts.flags import Flag, parse, refuse_idle
from stn.scripts.options import OneLineParser, nonnegative_int, one_of, positive, positive_int

MODULES = (lstm.train, lstm.train_basic, cnn.hypertrain, cnn.train_basic, cnn.train_lr)
SCRIPTS = {module.__name__: module for module in MODULES}
each_script = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


def all_flags(script):
    return [*script.SCRIPT.flags.values(), *script.SCRIPT.course_flags]


# One flag


@pytest.mark.parametrize(
    ("flag", "accepted", "refused"),
    [
        (Flag("steps", "", positive_int, 1), [1, 16], [True, 1.0, 16.0, "1", "16", 0, None, [16], "many"]),
        (Flag("gpu", "", nonnegative_int, 0), [0, 3], [False, 0.0, -1, ""]),
        (Flag("lr", "", positive, 1.0), [1.0, 0.5, 2], [True, "0.5", 0.0, float("nan"), float("inf"), {}]),
        (Flag("tune", ""), [True, False], [1, 0, "True", None, 3]),
        (Flag("model", "", one_of("small", "large"), "small"), ["small", "large"], ["big", 3, None, ["small"]]),
        (Flag("prefix", "", str, None), [None, "", "mine", "16"], [16, 1.5, True, ["mine"]]),
        (Flag("steps", "", positive_int, [], many=True), [[], [3], [3, 5]], [3, [True], ["3"], [0], None, "35"]),
    ],
    ids=lambda value: value.name if isinstance(value, Flag) else "",
)
def test_which_values_a_flag_accepts(flag, accepted, refused):
    """From a file, where they have types."""
    assert [value for value in accepted if not flag.accepts(value)] == []
    assert [value for value in refused if flag.accepts(value)] == []


def test_only_what_is_given_is_in_the_result():
    flags = [
        Flag("lr", "", positive, 1.0, aliases=("-l",)),
        Flag("tune", ""),
        Flag("steps", "", positive_int, [], many=True),
        Flag("resume", "", str, None, optional=True),
    ]

    def given(*argv):
        return parse(OneLineParser(prog="some.py"), flags, argv)

    assert given() == {}
    assert given("--lr", "1") == given("-l", "1.0") == {"lr": 1.0}  # the default, but given
    assert given("--tune", "--steps", "3", "5") == {"tune": True, "steps": [3, 5]}
    assert given("--resume") == {"resume": None} and given("--resume", "there") == {"resume": "there"}


def test_flags_may_have_hyphens_or_underscores():
    flags = [
        Flag("log_lr", "", positive, 1.0, aliases=("-l",)),
        Flag("in_file", "", str, None, many=True),
        Flag("fast_way", "", default=True, check=one_of("x"), switches={"no_fast_way": (False, "")}),
    ]

    def given(*argv):
        return parse(OneLineParser(prog="some.py"), flags, argv, hyphens=True)

    assert given("--log-lr", "2") == given("--log_lr", "2") == given("--log_lr=2") == given("-l", "2") == {"log_lr": 2}
    assert given("--in_file", "a_b", "c_d") == given("--in-file", "a_b", "c_d") == {"in_file": ["a_b", "c_d"]}
    assert given("--in-file=--a_b=c_d") == {"in_file": ["--a_b=c_d"]}  # the name's alone
    assert given("--no_fast_way") == given("--no-fast-way") == {"fast_way": False}
    with pytest.raises(SystemExit):
        parse(OneLineParser(prog="some.py"), flags, ["--log-lr", "2"])


def test_an_idle_flag_is_refused_with_a_remedy():
    refuse_idle({"lr", "tune"}, {})
    with pytest.raises(UserError, match=r"^--tune has nothing to act on: add --more, or leave it out$"):
        refuse_idle({"lr", "tune"}, {"tune": "add --more", "other": "add --less"})


# The scripts'


@each_script
def test_help_shows_every_flag_with_its_default(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "999")  # so that no word is broken
    status, out, error = execute(script, ["--help"], capsys)
    assert (status, error) == (0, "") and "None" not in out and "SUPPRESS" not in out
    entries = {entry.split()[0].rstrip(","): " ".join(entry.split()) for entry in re.split(r"\n+(?=\S|  -)", out)}
    for flag in all_flags(script):
        entry = entries[script.SCRIPT.spelled(flag.name)]
        assert " ".join(flag.help.split()) in entry
        assert all(f", {alias}" in entry for alias in flag.aliases)
        if flag.check and flag.default not in (None, "", []):
            assert entry.endswith(f"(default: {flag.default})")
        for switch, (_, words) in flag.switches.items():
            assert entries[f"--{switch}"] == f"--{switch} {words}"
    names = {script.SCRIPT.spelled(name) for flag in all_flags(script) for name in (flag.name, *flag.switches)}
    assert {name for name in entries if name.startswith("-")} == {"-h", *names}


@each_script
def test_no_two_flags_share_a_name(script):
    names = [name for flag in all_flags(script) for name in (f"--{flag.name}", *flag.aliases)]
    assert len({*names}) == len(names)


@each_script
def test_every_default_is_one_that_its_flag_accepts(script):
    assert [flag.name for flag in all_flags(script) if not flag.accepts(flag.default)] == []


@pytest.mark.parametrize(
    ("script", "short_names"),
    [
        (cnn.train_lr, {}),
        (lstm.train, {}),
        (lstm.train_basic, {"--log-interval": "train_log_interval"}),
        (cnn.train_basic, {"-a": "model", "-drop": "dropout", "-fcdrop": "fc_dropout", "-fcdrop0": "fc_dropout0",
                           "-fcdrop1": "fc_dropout1", "-fcdrop2": "fc_dropout2", "-iscl": "inscale",
                           "-cuth": "cutholes", "-cutl": "cutlength",
                           "-bsz": "batch_size", "-totep": "total_epochs", "-tlr": "train_lr", "-mom": "momentum",
                           "-pval": "percent_valid", "--save_dir": "dir"}),
        (cnn.hypertrain, {"-tscl": "tune_scales", "-tdrop": "tune_dropout", "-tdropl": "tune_dropoutl",
                          "-tidrop": "tune_indropout", "-tfcdrop": "tune_fcdropout", "-tiscl": "tune_inscale",
                          "-thue": "tune_hue", "-tsat": "tune_sat", "-tcon": "tune_contrast", "-tbrt": "tune_bright",
                          "-tjit": "tune_jitters", "-tcutl": "tune_cutlength", "-tcuth": "tune_cutholes",
                          "-tall": "tune_all", "-iscl": "start_inscale", "-drop": "start_drop",
                          "-idrop": "start_indrop", "-fcdrop": "start_fcdrop", "-hue": "start_hue",
                          "-sat": "start_sat", "-con": "start_contrast", "-brt": "start_bright",
                          "-cutl": "start_cutlength", "-cuth": "start_cutholes", "-m": "model", "-bsz": "batch_size",
                          "-totep": "total_epochs", "-wupep": "warmup_epochs", "-tlr": "train_lr", "-vlr": "valid_lr",
                          "-slr": "scale_lr", "-mom": "momentum", "-tstep": "train_steps", "-vstep": "valid_steps",
                          "-nonm": "nonmono", "-pat": "patience", "-ewt": "entropy_weight", "-pscl": "perturb_scale",
                          "-clscl": "cutlength_scale", "-chscl": "cutholes_scale", "-pval": "percent_valid"}),
    ],
    ids=["cnn.train_lr", "lstm.train", "lstm.train_basic", "cnn.train_basic", "cnn.hypertrain"],
)  # fmt: skip
def test_the_published_short_names(script, short_names):
    assert {alias: flag.name for flag in all_flags(script) for alias in flag.aliases} == short_names
