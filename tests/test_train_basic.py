"""The baselines' command line: fixed, perturbed and replayed hyperparameters in an otherwise equal run."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
import yaml
from lstm_runs import (
    SMALL,
    execute,
    only_run,
    rebuilt,
    refused,
    rows,
    settings,
    values_of,
    without_time,
    write_corpus,
)
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from lstm import train, train_basic
from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.settings import LanguageModelSettings
from stn.learning_rates import LearningRate
from stn.methods import STN
from stn.schedules import read_schedule
from stn.scripts.declared import possible_ranges
from stn.scripts.signals import PARENT

ROOT = Path(__file__).parent.parent
NAMES = list(TABLE)
BARE = " ".join(f"--{name} 0" for name in NAMES)
# The commands of the paper's repository, and what each makes of dropouto.
PUBLISHED = {
    "--dropouto=0.68 --prefix=dropouto": "0.68",
    "--dropouto=0.68 --prefix=dropouto_gauss --perturb_type=gaussian --perturb_std=0.05 --perturb_dropouto": (
        "0.68 with Gaussian noise of standard deviation 0.05 for each mini-batch"
    ),
    "--dropouto=0.68 --prefix=dropouto_sin --perturb_type=sinusoid --amplitude=0.1 --sinusoid_period=1200"
    " --perturb_dropouto": "0.68 with a sinusoid of amplitude 0.1 and period 1200 mini-batches",
    "--dropouto=0.78 --prefix=dropouto_final": "0.78",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(tmp_path, corpus, capsys):
    """run(flags, script): a command line on the small corpus, logging below tmp_path; its outcome."""

    def command(flags="", script=train_basic):
        given = [] if "--resume" in flags else ["--data", corpus, *SMALL.split()]
        return execute(script, ["--save_dir", tmp_path / "logs", *given, *flags.split()], capsys)

    return command


@pytest.fixture
def used(monkeypatch):
    """The draw of each weight step, as the model gets it: {name: value}, all seven."""
    values = []
    encode = AWDLSTM.encode

    def recording(model, tokens, state, draw):
        if model.training:
            values.append({name: draw[name] for name in NAMES})
        return encode(model, tokens, state, draw)

    monkeypatch.setattr(AWDLSTM, "encode", recording)
    return values


def scalars(folder, tag):
    """(step, value) of what TensorBoard shows under a tag."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    return [
        (event.step, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for file in files
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == tag
    ]


# Plain


def test_a_plain_run_has_plain_layers(run, tmp_path):
    assert run()[0] == 0
    saved = torch.load(only_run(tmp_path) / "model.pt", weights_only=True)["model"]
    types, width, hidden = 7, 4, 5
    layers = [nn.LSTM(width, hidden), nn.LSTM(hidden, width)]
    weights = types * width + types + sum(weight.numel() for layer in layers for weight in layer.parameters())
    assert sum(weight.numel() for name, weight in saved.items() if name != "decoder.weight") == weights
    assert not any("response" in name or "gate" in name for name in saved)


def test_a_plain_run_has_the_losses_of_an_independent_plain_model(run, tmp_path):
    """nn.Embedding, nn.LSTM and a tied nn.Linear, trained by hand from the same weights."""
    assert run(f"{BARE} --seed 5 --clip 0.1 --epochs 3")[0] == 0
    folder = only_run(tmp_path)
    text, _, task = rebuilt(train_basic, folder)

    embedding, decoder = nn.Embedding(len(text.vocabulary), 4), nn.Linear(4, len(text.vocabulary))
    layers = [nn.LSTM(4, 5), nn.LSTM(5, 4)]
    decoder.weight = embedding.weight
    ours = task.model.state_dict()
    embedding.load_state_dict({"weight": ours["embedding.weight"]})
    decoder.load_state_dict({name: ours[f"decoder.{name}"] for name in ("weight", "bias")})
    for number, layer in enumerate(layers):
        prefix = f"layers.{number}."
        layer.load_state_dict({f"{n[len(prefix) :]}": w for n, w in ours.items() if n.startswith(prefix)})
    weights = list({id(w): w for m in (embedding, decoder, *layers) for w in m.parameters()}.values())

    def losses(tokens, bptt, update):
        """Sum of losses over a text in columns (N, B), and how many."""
        total = count = 0
        states = [None, None]
        for start in range(0, len(tokens) - 1, bptt):
            chunk = tokens[start : start + bptt + 1]
            hidden = embedding(chunk[:-1])
            for number, layer in enumerate(layers):
                hidden, state = layer(hidden, states[number])
                states[number] = tuple(part.detach() for part in state)
            loss = F.cross_entropy(decoder(hidden).flatten(0, 1), chunk[1:].flatten())
            if update:
                for gradient, weight in zip(torch.autograd.grad(loss, weights), weights, strict=True):
                    weight.grad = gradient
                norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in weights))
                with torch.no_grad():
                    for weight in weights:
                        weight -= 1.0 * weight.grad * min(1, 0.1 / norm)
            total += loss.item() * chunk[1:].numel()
            count += chunk[1:].numel()
        return total / count

    def columns(stream, batch):
        rows = len(stream) // batch
        return stream[: rows * batch].view(batch, rows).t()

    for row in rows(folder / "epoch.csv"):
        assert float(row["train_loss"]) == pytest.approx(losses(columns(text.train, 4), 6, update=True), rel=1e-5)
        with torch.no_grad():
            expected = losses(columns(text.valid, 10), 6, update=False)
        assert float(row["val_loss"]) == pytest.approx(expected, rel=1e-5)


# Perturbed


@pytest.mark.parametrize("name", NAMES)
def test_each_hyperparameter_can_be_perturbed_and_no_other_is(run, used, name):
    assert run(f"--{name} 0.5 --perturb_{name} --seed 2")[0] == 0
    for other in NAMES:
        values = {step[other] for step in used}
        assert len(values) == (len(used) if other == name else 1)
    assert numpy.mean([step[name] for step in used]) == pytest.approx(0.5, abs=4 * 0.1 / math.sqrt(len(used)))


def test_noises_of_different_hyperparameters_are_different(run, used):
    assert run("--perturb_alpha --alpha 5 --perturb_beta --beta 5")[0] == 0
    assert all(step["alpha"] != step["beta"] for step in used)


def test_sinusoids_go_by_mini_batches_each_from_a_phase_of_its_own(run, used):
    """A wave around 0.5 follows x[t + 2] + x[t] = 2 cos(2π/8) x[t + 1] wherever it starts; two move apart."""
    names = ("dropouto", "wdrop")
    flags = " ".join(f"--{name} 0.5 --perturb_{name}" for name in names)
    assert run(f"{flags} --perturb_type sinusoid --amplitude 0.1 --sinusoid_period 8 --seed 3")[0] == 0
    waves = [numpy.array([step[name] for step in used]) - 0.5 for name in names]
    for wave in waves:
        assert len(wave) > 8 and wave[2:] + wave[:-2] == pytest.approx(2 * math.cos(math.pi / 4) * wave[1:-1], abs=1e-6)
        amplitude = math.hypot(wave[0], (wave[1] - wave[0] * math.cos(math.pi / 4)) / math.sin(math.pi / 4))
        assert amplitude == pytest.approx(0.1, abs=1e-6)
    assert numpy.abs(waves[0] - waves[1]).max() > 0.01
    first = [step["dropouto"] for step in used]
    used.clear()
    assert run(f"{flags} --perturb_type sinusoid --amplitude 0.1 --sinusoid_period 8 --seed 4 --prefix other")[0] == 0
    assert abs(first[0] - used[0]["dropouto"]) > 1e-3


def test_rates_are_clipped_to_099_and_coefficients_at_0(run, used):
    flags = "--perturb_dropouto --dropouto 0.9 --perturb_alpha --alpha 2 --perturb_beta --beta 0 --perturb_std 1"
    assert run(f"{flags} --seed 1")[0] == 0
    for name, low, high in (("dropouto", 0, 0.99), ("beta", 0, math.inf)):
        values = [step[name] for step in used]
        assert min(values) == low and max(values) <= high
    assert max(step["dropouto"] for step in used) == 0.99
    assert max(step["alpha"] for step in used) > 2


def test_the_values_used_are_logged(run, used, tmp_path):
    status, out, _ = run("--perturb_dropouto --dropouto 0.5 --log-interval 1")
    assert status == 0
    assert sum(line.split()[:1] == ["dropo"] for line in out.splitlines()) == 2  # each epoch's line of values
    folder = only_run(tmp_path)
    logged = scalars(folder, "hyper/dropouto")
    assert [step for step, _ in logged] == list(range(1, len(used) + 1))
    assert [value for _, value in logged] == pytest.approx([step["dropouto"] for step in used])
    length = len(used) // 2
    assert [float(row["dropouto"]) for row in rows(folder / "epoch.csv")] == [
        used[length - 1]["dropouto"],
        used[-1]["dropouto"],
    ]


def test_log_interval_is_50_steps_unless_given(run, tmp_path):
    assert run()[0] == 0
    assert settings(only_run(tmp_path))["train_log_interval"] == 50


def test_noise_leaves_other_random_numbers_as_they_are(run, tmp_path):
    """Without any effect of the noise, a perturbed run is the fixed one."""
    for prefix in ("fixed", "noisy --perturb_dropouto --perturb_std 0"):
        assert run(f"--dropouto 0.5 --seed 1 --prefix {prefix}")[0] == 0
    fixed, noisy = sorted((tmp_path / "logs").glob("*/"))
    assert without_time(fixed / "epoch.csv") == without_time(noisy / "epoch.csv")


def test_a_perturbed_run_resumes_as_if_it_had_not_stopped(run, tmp_path):
    flags = "--perturb_dropouto --perturb_wdrop --dropouto 0.5 --seed 3 --log-interval 1"
    assert run(f"{flags} --epochs 3 --prefix whole")[0] == 0
    assert run(f"{flags} --epochs 1 --prefix parts")[0] == 0
    parts, whole = sorted((tmp_path / "logs").glob("*/"))
    assert run(f"--resume {parts} --epochs 3")[0] == 0
    assert without_time(parts / "epoch.csv") == without_time(whole / "epoch.csv")
    assert scalars(parts, "hyper/wdrop") == scalars(whole, "hyper/wdrop")


def test_a_run_whose_parent_has_gone_stops_with_a_checkpoint(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(PARENT, "0")
        assert run("--seed 1")[0] == 130
    folder = only_run(tmp_path)
    assert (folder / "status").read_text() == "interrupted\n" and not (folder / "epoch.csv").exists()
    monkeypatch.setenv(PARENT, str(os.getppid()))
    assert run(f"--resume {folder}")[0] == 0
    assert len(rows(folder / "epoch.csv")) == 2


# Replay


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, corpus):
    """A self-tuned run's folder, all seven tuned, with its hyperparameters changing fast."""
    logs = tmp_path_factory.mktemp("recorded")
    flags = f"{SMALL} --epochs 4 --tune_all --hyper_lr 0.3 --warmup_steps 2 --seed 1"
    assert train.main(["--data", str(corpus), "--save_dir", str(logs), *flags.split()]) == 0
    (folder,) = logs.glob("*/")
    return folder


def test_replay_by_step_puts_the_recorded_values_in_at_the_recorded_steps(run, used, recorded, tmp_path):
    """All seven; the recording run's own model had them, too, one weight step after each hyperparameter step."""
    status, out, _ = run(f"--load_schedule {recorded / 'val.csv'} --epochs 4 --log-interval 1")
    assert status == 0
    assert sum("replayed by step" in line and ", ".join(NAMES) in line for line in out.splitlines()) == 1
    table = rows(recorded / "val.csv")
    assert len(table) > 10
    for name in NAMES:
        for row in table:
            if int(row["train_step"]) < len(used):
                assert used[int(row["train_step"])][name] == float(row[name])
        first, second = ((int(row["train_step"]), float(row[name])) for row in table[3:5])
        assert second[0] - first[0] == 2
        assert used[first[0] + 1][name] == pytest.approx((first[1] + second[1]) / 2)
        assert used[0][name] == float(table[0][name])
        logged = [value for _, value in scalars(only_run(tmp_path), f"hyper/{name}")]
        assert logged == pytest.approx([step[name] for step in used])


def test_replay_by_epoch_puts_row_e_in_during_epoch_e(run, used, recorded, tmp_path):
    status, out, _ = run(f"--load_schedule {recorded / 'epoch.csv'} --epochs 6")
    assert status == 0 and "held from epoch 3 on" in out
    table, length = rows(recorded / "epoch.csv"), len(used) // 6
    assert length * 6 == len(used) and len({row["dropouto"] for row in table}) == 4
    for name in NAMES:
        for step, values in enumerate(used):
            assert values[name] == float(table[min(step // length, 3)][name])
    # What is logged is what was used: a replay can be replayed.
    found = rows(only_run(tmp_path) / "epoch.csv")
    assert [{name: row[name] for name in NAMES} for row in found[:4]] == [
        {name: row[name] for name in NAMES} for row in table
    ]


def test_replay_of_some_leaves_the_others_to_their_flags(run, used, tmp_path):
    (tmp_path / "some.csv").write_text("epoch,dropouto\n0,0.25\n")
    status, out, _ = run(f"--load_schedule {tmp_path / 'some.csv'} --dropouth 0.4 --wdrop 0.3 --perturb_wdrop")
    assert status == 0 and "dropouto: replayed" in out
    assert {(step["dropouto"], step["dropouth"]) for step in used} == {(0.25, 0.4)}
    assert len({step["wdrop"] for step in used}) == len(used)


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of each weight step, as the method takes it."""
    found = []
    weight_step = STN.weight_step

    def recording(method, task, hyper):
        found.append(method.updates["weights"].optimizer.param_groups[0]["lr"])
        return weight_step(method, task, hyper)

    monkeypatch.setattr(STN, "weight_step", recording)
    return found


@pytest.fixture
def replaying(tmp_path, corpus, capsys):
    """replaying(text, flags): a run at the learning rate that a table of this text recorded, with no flag for it."""

    def command(text, flags=""):
        (tmp_path / "rates.csv").write_text(text)
        sizes = SMALL.replace("--lr 1 ", "").split()
        given = ["--data", corpus, *sizes, "--save_dir", tmp_path / "logs", "--load_schedule", tmp_path / "rates.csv"]
        return execute(train_basic, [*given, *flags.split()], capsys)

    return command


BY_STEP = "train_step,dropouto,lr,hyper_lr,mu\n2,0.25,1.0,0.1,0.9\n4,0.25,0.5,0.1,0.9\n8,0.5,1e-5,0.1,0.9\n"
BY_EPOCH = "epoch,lr,hyper_lr\n0,1.0,0.1\n1,0.5,0.1\n2,1e-5,0.1\n"  # below where other runs stop


def test_a_tuned_learning_rate_is_replayed_by_step(replaying, rates, used, tmp_path):
    status, out, _ = replaying(BY_STEP, "--log-interval 1")
    assert status == 0 and "\nlearning rate: replayed by step from" in out
    expected = numpy.interp(range(1, len(rates) + 1), [2, 4, 8], [1.0, 0.5, 1e-5])
    assert len(rates) > 10 and rates == pytest.approx(expected) and used[3]["dropouto"] == 0.25
    found = rows(only_run(tmp_path) / "val.csv")
    assert [float(row["lr"]) for row in found] == rates
    assert {row["hyper_lr"] for row in found} == {"0.0"}


def test_a_tuned_learning_rate_is_replayed_by_epoch(replaying, rates, tmp_path):
    status, _, _ = replaying(BY_EPOCH, "--epochs 4")
    assert status == 0
    length = len(rates) // 4
    assert rates == [1.0] * length + [0.5] * length + [1e-5] * 2 * length
    table = only_run(tmp_path) / "epoch.csv"
    assert [float(row["lr"]) for row in rows(table)] == [1.0, 0.5, 1e-5, 1e-5]
    replay = read_schedule(table, possible_ranges(TABLE))["lr"]  # it can be replayed in turn
    assert [replay.at(0, epoch) for epoch in range(4)] == [1.0, 0.5, 1e-5, 1e-5]


class Learned(LearningRate):
    """A tuned one by script: a tenth less after each weight step."""

    tuned = True

    def columns(self):
        return {"lr": self.value, "hyper_lr": 0.1}

    def after_step(self):
        self.value *= 0.9


@pytest.mark.parametrize("again", [False, True])
def test_a_run_replays_what_another_learned(run, replaying, rates, tmp_path, monkeypatch, again):
    """From its second weight step on, since tables begin after the first; and a replay of the replay does, too."""
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelSettings, "learning_rate", lambda *_: Learned(1.0))
        assert run("--log-interval 1 --prefix learned")[0] == 0
    learned, found = [*rates], only_run(tmp_path)
    for prefix in ["replayed", "replayed_again"][: 1 + again]:
        rates.clear()
        assert replaying((found / "val.csv").read_text(), f"--log-interval 1 --prefix {prefix}")[0] == 0
        (found,) = (tmp_path / "logs").glob(f"*-{prefix}")
    assert learned == pytest.approx([0.9**step for step in range(len(learned))]) and len(learned) > 10
    assert rates[1:] == learned[1:]


@pytest.mark.parametrize("text", [BY_STEP, BY_EPOCH], ids=["step", "epoch"])
def test_a_replayed_learning_rate_resumes_as_if_it_had_not_stopped(run, replaying, rates, tmp_path, text):
    assert replaying(text, "--epochs 3 --prefix whole --seed 1")[0] == 0
    expected = [*rates]
    rates.clear()
    assert replaying(text, "--epochs 1 --prefix parts --seed 1")[0] == 0
    (tmp_path / "rates.csv").unlink()
    parts, whole = sorted((tmp_path / "logs").glob("*/"))
    assert run(f"--resume {parts} --epochs 3")[0] == 0
    assert rates == expected
    assert without_time(parts / "epoch.csv") == without_time(whole / "epoch.csv")


@pytest.mark.parametrize("flag", ["lr 1", "lr_decay 2", "nonmono 3"])
def test_a_replayed_learning_rate_has_no_flags(replaying, tmp_path, flag):
    words = f"--{flag.split()[0]} contradicts --load_schedule, which sets lr"
    refused(replaying(BY_STEP, f"--{flag}"), words, script="train_basic.py")
    assert not (tmp_path / "logs").exists()


def test_a_decayed_learning_rate_is_not_replayed(replaying, rates):
    assert replaying("epoch,dropouto,lr\n0,0.5,7\n", "--lr 0.5")[0] == 0
    assert {*rates} == {0.5}


def test_a_replay_needs_no_more_than_its_own_folder(run, recorded, tmp_path):
    file = tmp_path / "epoch.csv"
    file.write_text((recorded / "epoch.csv").read_text())
    assert run(f"--load_schedule {file} --epochs 1")[0] == 0
    file.unlink()
    folder = only_run(tmp_path)
    assert run(f"--resume {folder} --epochs 3")[0] == 0
    assert run(f"--resume {folder} --test")[0] == 0
    found, wanted = rows(folder / "epoch.csv"), rows(recorded / "epoch.csv")
    assert [row["wdrop"] for row in found] == [row["wdrop"] for row in wanted[:3]]


def test_a_replay_whose_copy_was_changed_is_refused(run, recorded, tmp_path):
    assert run(f"--load_schedule {recorded / 'epoch.csv'} --epochs 1")[0] == 0
    copy = only_run(tmp_path) / "schedule.csv"
    text = copy.read_text()
    resume = f"--resume {copy.parent} --epochs 2"
    copy.write_text(text.replace("0.", "0.0"))
    refused(run(resume), copy, "not what the run was started with", script="train_basic.py")
    copy.unlink()
    refused(run(resume), copy, "is not there", "restore it", script="train_basic.py")
    copy.mkdir()
    refused(run(resume), copy, "is not there", "restore it", script="train_basic.py")


# Flags


@pytest.mark.parametrize(("flags", "source"), PUBLISHED.items())
def test_published_commands(flags, source):
    sources = train_basic.sources(values_of(train_basic, f"{flags} --seed 0"))
    assert str(sources["dropouto"]) == source
    assert {name: str(sources[name]) for name in NAMES if name != "dropouto"} == {
        **dict.fromkeys(("alpha", "beta"), "0"),
        **dict.fromkeys(("dropouti", "dropouth", "dropoute", "wdrop"), "0.05"),
    }


def test_published_defaults():
    published = {"perturb_std": 0.1, "amplitude": 0.2, "sinusoid_period": 330, "train_log_interval": 50}
    published |= {"perturb_type": "gaussian", "load_schedule": None}
    defaults = train_basic.SCRIPT.defaults()
    assert {name: defaults[name] for name in published} == published


def test_the_script_runs_from_inside_lstm(tmp_path, corpus):
    """And finds a schedule that is named from the repository's root."""
    schedule = ROOT / "logs" / "test_train_basic.csv"
    schedule.write_text("epoch,dropouto\n0,0.25\n")
    try:
        command = ["train_basic.py", "--data", str(corpus), "--save_dir", str(tmp_path / "logs"), *SMALL.split()]
        done = subprocess.run(
            [sys.executable, *command, "--load_schedule=logs/test_train_basic.csv"],
            cwd=ROOT / "lstm",
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    finally:
        schedule.unlink()
    assert (done.returncode, done.stderr) == (0, "")
    assert {row["dropouto"] for row in rows(only_run(tmp_path) / "epoch.csv")} == {"0.25"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--perturb_std 0.1", ["--perturb_std", "nothing to act on"]),
        ("--perturb_type sinusoid", ["--perturb_type", "nothing to act on"]),
        ("--perturb_dropouto --amplitude 0.1", ["--amplitude", "give --perturb_type sinusoid"]),
        (
            "--perturb_dropouto --perturb_type sinusoid --perturb_std 1",
            ["--perturb_std", "--perturb_type gaussian"],
        ),
        ("--perturb_type square", ["--perturb_type", "square"]),
        ("--perturb_std -1", ["--perturb_std", "-1"]),
        ("--sinusoid_period 0", ["--sinusoid_period", "0"]),
        ("--sinusoid_period nan", ["--sinusoid_period", "nan"]),
        ("--model LSTM", ["--model"]),  # a flag of the paper's repository with this one value
        ("--dropouto 1", ["--dropouto", "1"]),
        ("--tune_dropouto", ["--tune_dropouto"]),
        ("--load_schedule nowhere.csv", ["--load_schedule", "nowhere.csv", "does not exist"]),
        ("--load_schedule {file} --dropouto 0.5", ["--dropouto", "--load_schedule", "sets dropouto"]),
        ("--load_schedule {file} --perturb_dropouto", ["--perturb_dropouto", "sets dropouto"]),
        ("--load_schedule {empty}", ["{empty}", "no row of values"]),
        ("--load_schedule {folder}", ["{folder}", "cannot read"]),
        ("--log-interval 0", ["--log-interval", "0"]),
    ],
)
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    places = {"file": tmp_path / "s.csv", "empty": tmp_path / "empty.csv", "folder": tmp_path}
    places["file"].write_text("epoch,dropouto\n0,0.25\n")
    places["empty"].touch()
    words = [word.format(**places) for word in words]
    refused(run(flags.format(**places)), *words, script="train_basic.py")
    assert not (tmp_path / "logs").exists()


def test_a_run_goes_on_with_the_script_that_started_it(run, tmp_path):
    assert run("--epochs 1")[0] == 0
    folder = only_run(tmp_path)
    refused(run(f"--resume {folder} --epochs 2", script=train), "lstm/train_basic.py", "go on with that")
    assert run(f"--resume {folder} --epochs 2")[0] == 0
    status, out, _ = run(f"--resume {folder} --test")
    assert status == 0 and "test loss" in out


def rename_script(folder, name):
    """As though another script had made the run."""
    changed = {**settings(folder), "script": name}
    (folder / "args.yaml").write_text(yaml.safe_dump(changed))
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**content, "settings": changed}, folder / "checkpoint.pt")


@pytest.mark.parametrize("flags", ["--epochs 2", "--test"])
def test_the_image_classifiers_script_of_the_same_name_is_another(run, tmp_path, flags):
    assert run("--epochs 1")[0] == 0
    folder = only_run(tmp_path)
    for name, remedy in (("cnn/train_basic.py", "go on with that"), ("train_basic.py", "start a new run")):
        rename_script(folder, name)
        refused(run(f"--resume {folder} {flags}"), f"one of {name}", remedy, script="train_basic.py")
