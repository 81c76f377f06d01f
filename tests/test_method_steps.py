"""What holds for the steps of every method: on any device, and across a stop and a resume."""

import pytest
import torch
from lstm_runs import SMALL, execute, without_time, write_corpus

from cnn.models import SmallCNN
from cnn.task import ImageClassification
from lstm import train
from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.images import Images, ImageSets
from stn.datasets.text import Corpus
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import STN
from stn.runs.checkpoints import read_checkpoint

METHODS = {"stn": (STN, "unconstrained"), "stn, centred": (STN, "centred"), "delta_stn": (DeltaSTN, "centred")}
any_method = pytest.mark.parametrize("name", METHODS)


def language_modeling(feed, device):
    tuned = {n: Tuned(0.3, own.range, per_example=own.per_example, feed=feed) for n, own in TABLE.items()}
    hyper = Hyperparameters(**tuned).to(device)
    model = AWDLSTM(6, 5, 4, 2, hyper.num_tuned).to(device)
    texts = {split: torch.randint(6, (60,)) for split in ("train", "valid", "test")}
    return LanguageModeling(model, Corpus(**texts, vocabulary=tuple("abcdef"), checksum=""), 3, 4, device=device), hyper


def image_classification(feed, device):
    from cnn.hyperparameters import TABLE as images_table
    from cnn.hyperparameters import names_of

    tuned = {
        n: Tuned(own.initial, own.range, 0.5, own.per_example, own.discrete, feed)
        for n, own in images_table.items()
        if n in names_of("small")
    }
    hyper = Hyperparameters(**tuned).to(device)
    images = Images(torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8), torch.arange(12) % 10)
    sets = ImageSets(images, images, images, tuple("0123456789"), "")
    return ImageClassification(SmallCNN(hyper.num_tuned).to(device), sets, 4, device), hyper


@any_method
@pytest.mark.parametrize("made", [language_modeling, image_classification])
def test_steps_never_wait_for_the_device(name, made, monkeypatch):
    """The meta device has no numbers to wait for, and refuses tensors of another device."""
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **options: sgd(*args, **{**options, "fused": False}))
    method, feed = METHODS[name]
    task, hyper = made(feed, "meta")
    method = method(task.model, hyper, lr=0.1, clip=0.25, tune_scales=True)
    for step in (method.weight_step, method.weight_step, method.hyper_step, method.weight_step):
        taken = step(task, hyper)
        assert taken.data.is_meta and taken.health.is_meta


@pytest.mark.parametrize("name", ["stn", "delta_stn"])
def test_a_resumed_run_is_the_same_to_the_last_bit(name, tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus")
    flags = f"{SMALL} --tune_all --tune_scales --method {name} --warmup_steps 3 --seed 1 --data {corpus}".split()
    flags += ["--response_lr", "0.5"] if name == "delta_stn" else []
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert execute(train, [*flags, "--save_dir", whole], capsys)[0] == 0
    assert execute(train, [*flags, "--save_dir", stopped, "--epochs", "1"], capsys)[0] == 0
    (folder,) = stopped.glob("*/")
    assert execute(train, ["--resume", folder, "--epochs", "2"], capsys)[0] == 0
    (left_alone,) = whole.glob("*/")
    assert without_time(left_alone / "epoch.csv") == without_time(folder / "epoch.csv")
    one, other = (read_checkpoint(place).state for place in (left_alone, folder))
    for part in ("model", "hyper", "method"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
