"""Transforms beside PyTorch's bijections, where it has them, and what is refused."""

import math

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import transforms as reference
from torch.testing import assert_close

import stn
from stn.errors import UserError
from stn.runs.models import pack
from stn.transforms import NAMES

pytestmark = pytest.mark.filterwarnings("ignore:training does not read")  # which is not what these test

INF = math.inf
CASES = {
    "sigmoid": ((0, 1), 0.3, reference.SigmoidTransform()),
    "stretched_sigmoid": (
        (-2, 3),
        0.4,
        reference.ComposeTransform([reference.SigmoidTransform(), reference.AffineTransform(-2, 5)]),
    ),
    "softplus": ((0, INF), 2.0, reference.SoftplusTransform()),
    "lower_softplus": (
        (1, INF),
        2.0,
        reference.ComposeTransform([reference.SoftplusTransform(), reference.AffineTransform(1, 1)]),
    ),
    "upper_softplus": (
        (-INF, 4),
        2.0,
        reference.ComposeTransform([reference.SoftplusTransform(), reference.AffineTransform(4, -1)]),
    ),
    "exp": ((0, INF), 2.0, reference.ExpTransform()),
    "logit": ((-INF, INF), 0.4, reference.SigmoidTransform().inv),
    "linear": ((-INF, INF), 0.4, reference.identity_transform),
}
REACHES = {"logit": torch.linspace(0.01, 0.99, 21)}


def test_all_names_are_tested():
    assert {*NAMES} == {*CASES}


@pytest.mark.parametrize("name", CASES)
def test_values_and_starts_are_those_of_the_named_map(double, name):  # noqa: ARG001
    ends, initial, expected = CASES[name]
    tuned = stn.Tuned(initial, range=ends, scale=0.1, transform=name)
    hyper = stn.Hyperparameters(first=stn.Tuned(0.0), x=tuned)
    points = REACHES.get(name, torch.linspace(-6, 6, 25)).to(torch.float64)
    both = torch.stack([points, points], 1)
    assert_close(hyper.constrain(both)[:, 1], expected(points), rtol=1e-12, atol=1e-12)
    assert_close(hyper.constrain(both)[:, 0], points, rtol=0, atol=0)
    assert hyper.current()["x"].item() == pytest.approx(initial, rel=1e-12)
    assert hyper.unconstrained[1].item() == pytest.approx(expected.inv(torch.tensor(initial)).item(), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_stay_finite_and_inside_far_out(name, dtype):
    (low, high), initial, _ = CASES[name]
    hyper = stn.Hyperparameters(x=stn.Tuned(initial, range=(low, high), scale=0.1, transform=name)).to(dtype)
    values = hyper.values(torch.linspace(-50, 50, 201, dtype=dtype)[:, None])
    assert values.isfinite().all() and (values >= low).all() and (values <= high).all()


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "exp"])
def test_a_name_implies_its_range(name):
    hyper = stn.Hyperparameters(x=stn.Tuned(0.3, transform=name))
    assert hyper.sources["x"].range == CASES[name][0]


def pair(scale=1.0):
    """Values above 0 whose square is the λ; λ above 0."""
    return (lambda x: scale * x.sqrt(), lambda value: value.square())


def test_any_pair_of_functions_may_be_given():
    hyper = stn.Hyperparameters(x=stn.Tuned(3.0, range=(0, INF), scale=0.5, transform=pair()))
    assert hyper.unconstrained.item() == pytest.approx(9.0) and hyper.current()["x"].item() == pytest.approx(3.0)
    noise = torch.tensor([[-1.0], [2.0]])
    assert_close(hyper.perturbed(2, noise)["x"], torch.tensor([8.5, 10.0]).sqrt())
    assert "a transform of its own" in repr(hyper)


def test_discrete_values_are_rounded_after_the_transform():
    hyper = stn.Hyperparameters(count=stn.Tuned(3, discrete=True, transform="exp"))
    assert hyper.current()["count"].item() == 3 and hyper.constrain(hyper.unconstrained).item() == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "cube"}, "x has the transform 'cube': give sigmoid, softplus"),
        ({"transform": (torch.exp,)}, "x has the transform"),
        ({"transform": "exp", "range": (0, 1)}, r"x has the range \(0, 1\), to which the transform exp does not lead"),
        ({"transform": "upper_softplus", "range": (0, INF)}, "to which the transform upper_softplus does not lead"),
        ({"transform": "stretched_sigmoid"}, "which needs a range"),
        ({"transform": (torch.exp, lambda x: x.log() + 0.1), "range": (0, INF)}, "of which inverse gives"),
        ({"transform": (torch.log, torch.exp)}, "is not monotone, or leaves its range"),
        (
            {"transform": (lambda x: x, lambda x: x), "range": (0, 1)},
            "leaves its range: give another one, or a smaller",
        ),
        ({"transform": (torch.square, torch.sqrt), "scale": 9.0}, "is not monotone, or leaves its range"),
        ({"transform": (lambda x: 0 * x, lambda x: 0 * x)}, "is not monotone"),
        ({"transform": "logit"}, "is perturbed by up to 3 about"),
        ({"transform": (math.exp, math.log)}, "give functions of tensors"),
        ({"feed": "centered"}, "x has the feed 'centered': give one of unconstrained, squashed, centred"),
        ({"transform": (torch.exp, lambda x: (x - 1).log())}, "the inverse of its transform gives nan there"),
        ({"transform": "exp", "feed": "squashed"}, "feed it centred or unconstrained"),
        ({"transform": "exp", "scale": -1.0}, "perturbation scale -1"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        stn.Hyperparameters(x=stn.Tuned(0.5, **options))


def test_a_model_with_functions_of_its_own_is_loaded_with_them(tmp_path):
    def made():
        hyper = stn.Hyperparameters(x=stn.Tuned(3.0, range=(0, INF), transform=pair()))
        return stn.convert(nn.Linear(2, 2), hyper), hyper

    net, hyper = made()
    with torch.no_grad():
        hyper.unconstrained.fill_(16.0)
    torch.save(pack(net, hyper), tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not hold the functions that transform x: give load_model `hyper`, too"):
        stn.load_model(tmp_path / "model.pt", stn.HyperLinear(2, 2, 1))
    loaded, own = stn.load_model(tmp_path / "model.pt", made()[0])
    assert own is loaded.hyper and own.current()["x"].item() == pytest.approx(4.0)


def test_a_run_with_transforms_is_recorded_and_drawn(tmp_path):
    hyper = stn.Hyperparameters(
        x=stn.Tuned(3.0, range=(0, INF), transform=pair(), feed="centred"),
        decay=stn.Tuned(1e-3, transform="exp", feed="centred"),
    )
    net = stn.convert(nn.Linear(2, 1), hyper)
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(3)]
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    result = stn.fit(
        *(net, hyper),
        loss=F.mse_loss,
        train=batches,
        valid=batches,
        optimizer=optimizer,
        epochs=2,
        run=tmp_path / "run",
    )
    rows = pandas.read_csv(result.path / "epoch.csv")
    assert rows["x"].iloc[0] == pytest.approx(3.0, rel=0.1) and rows["decay"].iloc[0] == pytest.approx(1e-3, rel=0.1)
    from stn.runs.history import read_run

    assert read_run(result.path).band("x", "epoch") is None
