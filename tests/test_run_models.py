"""A trained model by itself: packed, read back from files and from runs, and what cannot be."""

import math
import os

import pytest
import torch
from cnn_runs import SMALL as SMALL_IMAGES
from cnn_runs import same, tuned
from lstm_runs import SMALL, rows, write_corpus
from run_folders import SETTINGS, refused
from torch import nn

import stn
from cnn import hypertrain
from cnn.models import MLP, PLAIN, AlexNet, SmallCNN
from lstm import train
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.bilevel import evaluate
from stn.datasets.text import load_corpus
from stn.hyperparameters import Hyperparameters, Tuned
from stn.runs.folder import RunFolder
from stn.runs.models import pack
from stn.schedules import Constant, Sinusoid

pytestmark = pytest.mark.usefixtures("same_threads")


class Net(nn.Module):
    """One that does not keep its arguments."""

    def __init__(self, width=3):
        super().__init__()
        self.layer = stn.HyperLinear(2, width, 2)


SOURCES = {
    "rate": Tuned(0.25, (0, 0.9), 0.5, feed="squashed"),
    "holes": Tuned(2, (0, 4), discrete=True),
    "wave": Sinusoid(0.5, 0.25, 4.0, (0, 1), phase=0.25),
    "fixed": Constant(2.0),
}


@pytest.fixture
def trained():
    """A model and its hyperparameters, some steps on."""
    hyper = Hyperparameters(**SOURCES)
    with torch.no_grad():
        hyper.unconstrained += torch.tensor([0.3, -0.6])
        hyper.raw_scale += 0.1
    hyper.advance(3, 0)
    return Net(), hyper


def save(tmp_path, *trained):
    torch.save(pack(*trained), tmp_path / "some.pt")
    return tmp_path / "some.pt"


def test_names_and_values_are_in_the_file(tmp_path, trained):
    content = torch.load(save(tmp_path, *trained), weights_only=True)
    values = dict(zip(trained[1].log_names, trained[1].log_values().tolist(), strict=True))
    assert content["hyperparameters"] == {name: values[name] for name in SOURCES}
    assert content["hyperparameters"]["rate"] == pytest.approx(0.9 / (1 + (0.65 / 0.25) * math.exp(-0.3)))
    assert content["tuned"]["rate"]["range"] == (0, 0.9) and {*content["tuned"]} == {"rate", "holes"}


def test_a_file_gives_back_model_and_hyperparameters(tmp_path, trained):
    model, hyper = stn.load_model(save(tmp_path, *trained), Net())
    assert not model.training and same(model.state_dict(), trained[0].state_dict())
    assert same(hyper.state_dict(), trained[1].state_dict()) and hyper.names == (*SOURCES,)
    ours, theirs = hyper.current(), trained[1].current()
    assert torch.equal(ours.h, theirs.h)
    assert all(float(ours[name]) == float(theirs[name]) for name in SOURCES)
    assert torch.equal(hyper.scale, trained[1].scale)


def test_a_copy_does_not_follow_the_training(trained):
    packed = pack(*trained)
    with torch.no_grad():
        trained[0].layer.weight.zero_()
        trained[1].unconstrained.zero_()
    assert packed["model"]["layer.weight"].any() and packed["hyper"]["unconstrained"].any()


@pytest.mark.parametrize(
    "model",
    [AWDLSTM(11, 4, 5, 2, 0), AWDLSTM(11, 4, 5, 2, 11, torch.bfloat16), SmallCNN(11, elementary_scale=True)],
    ids=["lstm", "bfloat16", "cnn"],
)
def test_models_that_keep_their_arguments_are_built(tmp_path, model):
    again, _ = stn.load_model(save(tmp_path, model, tuned()))
    assert type(again) is type(model) and same(again.state_dict(), model.state_dict())
    assert again.dtype == model.dtype


def test_a_run_gives_its_best_model(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    flags = f"--data {corpus} --save_dir {tmp_path}/logs {SMALL} --tune_all --warmup_steps 2 --save other.pt --epochs 3"
    assert train.main(flags.split()) == 0
    (folder,) = (tmp_path / "logs").glob("*/")
    for path in (folder, str(folder), folder / "other.pt"):
        model, hyper = stn.load_model(path)
        task = LanguageModeling(model, load_corpus(corpus), 4, 6)
        (result,) = rows(folder / "result.csv")
        assert evaluate(task, hyper, "valid").loss == float(result["val_loss"])
        assert evaluate(task, hyper, "test").loss == float(result["test_loss"])
        for name in hyper.names:
            assert float(hyper.current()[name]) == pytest.approx(float(result[name]), rel=1e-6)
    (folder / "checkpoint.pt").unlink()
    refused(lambda: stn.load_model(folder), "model.pt", "does not exist")
    (folder / "other.pt").rename(folder / "model.pt")
    assert same(stn.load_model(folder)[0].state_dict(), model.state_dict())


@pytest.mark.usefixtures("few_images")
def test_a_run_of_an_image_classifier_needs_no_model_file(tmp_path):
    flags = f"{SMALL_IMAGES} --tune_all --total_epochs 1 --warmup_epochs 0 --logdir {tmp_path}"
    assert hypertrain.main(flags.split()) == 0
    (folder,) = (file.parent for file in tmp_path.glob("*/*/*/args.yaml"))
    assert not (folder / "model.pt").exists()
    model, hyper = stn.load_model(folder)
    assert isinstance(model, SmallCNN) and len(hyper.columns) == 11
    assert model(torch.zeros(2, 3, 32, 32), hyper.current()).shape == (2, 10)


@pytest.mark.parametrize("network", [AlexNet, SmallCNN, MLP])
def test_networks_recorded_before_each_had_a_file_are_made_again(tmp_path, network, monkeypatch):
    monkeypatch.setattr(AlexNet, "FULLY_CONNECTED", (1024, 8, 8))
    monkeypatch.setattr(network, "__module__", "cnn.models")
    model, hyper = network(0, torch.bfloat16), Hyperparameters()
    found, _ = stn.load_model(save(tmp_path, model, hyper))
    assert type(found) is network and found.dtype == torch.bfloat16
    assert same(found.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_plain_networks_are_made_again(tmp_path, name):
    model = PLAIN[name](100, (1, 28, 28))
    found, _ = stn.load_model(save(tmp_path, model, Hyperparameters()))
    assert found.arguments == model.arguments and same(found.state_dict(), model.state_dict())


def test_what_is_no_model(tmp_path, trained):
    good = save(tmp_path, *trained)
    refused(lambda: stn.load_model(good), "how to build its", "Net", "built alike")
    refused(lambda: stn.load_model(good, Net(width=4)), good, "another model", "built alike")
    refused(lambda: stn.load_model(tmp_path / "none"), "none", "does not exist")
    refused(lambda: stn.load_model(tmp_path), "model.pt", "does not exist", "a checkpoint or a model")
    content = bytearray(good.read_bytes())
    content[content.index(trained[0].layer.weight.detach().numpy().tobytes())] ^= 16
    (tmp_path / "flipped.pt").write_bytes(content)
    refused(lambda: stn.load_model(tmp_path / "flipped.pt", Net()), "flipped.pt", "damaged", "wrong checksum")
    refused(lambda: stn.load_model("a" * 300), "File name too long")
    (tmp_path / "text.pt").write_text("hello")
    refused(lambda: stn.load_model(tmp_path / "text.pt"), "text.pt", "damaged")
    torch.save({"model": {}}, tmp_path / "other.pt")
    refused(lambda: stn.load_model(tmp_path / "other.pt"), "other.pt", "no model file")
    content = torch.load(good, weights_only=True)
    for lack in ("hyper", "model", "tuned", "architecture"):
        torch.save({name: part for name, part in content.items() if name != lack}, tmp_path / "lacking.pt")
        refused(lambda: stn.load_model(tmp_path / "lacking.pt"), "lacking.pt")
    architecture = {"module": "os", "name": "system", "arguments": {"command": f"touch {tmp_path}/harm"}}
    torch.save({**content, "architecture": architecture}, tmp_path / "harmful.pt")
    refused(lambda: stn.load_model(tmp_path / "harmful.pt"), "os.system")
    assert not (tmp_path / "harm").exists() and os.system("true") == 0


def test_a_run_without_an_epoch_has_no_best_model(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({"best": None})
    refused(lambda: stn.load_model(folder), folder, "no epoch", "let it train on")
    refused(lambda: stn.load_model(folder / "checkpoint.pt"), "no model file", f"the run's folder, {folder}")
