import math
import warnings
from functools import partial

import pytest
import torch
from only_once import OnlyOnce
from torch import nn
from torch.testing import assert_close
from training_runs import Scripted, trainer_fixture  # noqa: F401

import stn
from stn.errors import UserError
from stn.hypergradients.policies import HD, MARTHE, RTHO
from stn.hyperparameters import Hyperparameters, Tuned
from stn.learning_rates import LearningRate
from stn.methods import STN

NEVER_BELOW = 1e-6  # of the first learning rate
pytestmark = pytest.mark.filterwarnings("error", "ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class Quadratic(stn.StreamTask):
    """½ a ‖w − t‖²: each training mini-batch draws another target t, which the validation after it shares.

    After every `again` of them w starts anew at 1 and the target is 0; None: it goes on.
    """

    batch_size, likelihood = 1, False

    def __init__(self, curvature=5.0, again=None, moving=True):
        self.model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(self.model.weight)
        self.curvature, self.again, self.moving = curvature, again, moving
        self.random, self.count, self.target = torch.Generator().manual_seed(3), 0, torch.zeros(1, 4).double()
        self.streams = {"train": stn.Shuffled((torch.zeros(1),), 1), "valid": stn.Shuffled((torch.zeros(1),), 1)}

    def batch(self, split):
        if split == "train":
            if self.again and self.count % self.again == 0:
                nn.init.ones_(self.model.weight)
            elif self.moving:
                self.target = torch.randn(1, 4, generator=self.random, dtype=torch.float64)
            self.count += 1
        return super().batch(split)

    def predict(self, *_):
        return self.model.weight - self.target

    def loss(self, prediction, *_):
        loss = self.curvature / 2 * prediction.square().sum()
        return stn.Loss(loss, loss.detach(), 1)


def train(task, rate, steps, **options):
    """The learning rates after each step."""
    hyper = Hyperparameters()
    method = STN(task.model, hyper, **{"lr": rate.value, **options})
    followed, values = rate.attach(task, hyper, method), []
    for _ in range(steps):
        rate.apply(method)
        method.weight_step(followed, hyper)
        rate.after_step()
        values.append(rate.value)
    return values


# Against closed forms


def test_hd_follows_the_product_of_successive_gradients():
    """Baydin et al. 2018, eq. 5 and 6, of gradient descent on ½ a w²."""
    a, lr, step = 2.0, 0.1, 1e-3
    values = train(Quadratic(a, moving=False), HD(lr, hyper_lr=step), 6)
    w, before, expected = torch.ones(4).double(), torch.zeros(4).double(), []
    for _ in range(6):
        gradient = a * w
        lr = lr + step * (gradient @ before).item()
        w, before = w - lr * gradient, gradient
        expected.append(lr)
    assert values == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("nesterov", [False, True])
def test_hd_takes_the_direction_of_the_update_before(momentum, nesterov):
    if nesterov and not momentum:
        return
    task = Quadratic(2.0)
    optimizer = torch.optim.SGD(task.model.parameters(), 0.1, momentum, nesterov=nesterov)
    directions, slopes, gradients = [], [], []
    rate = HD(0.1, hyper_lr=1e-3)
    hyper = Hyperparameters()
    method = STN(task.model, hyper, optimizer=optimizer)
    rate.attach(task, hyper, method)
    for _ in range(5):
        rate.apply(method)
        before = task.model.weight.detach().clone()
        method.weight_step(task, hyper)
        directions.append((before - task.model.weight.detach()) / rate.value)
        gradients.append(task.model.weight.grad.clone())
        slopes.append(rate.slope)
    expected = [
        -(gradient * direction).sum().item() for gradient, direction in zip(gradients[1:], directions, strict=False)
    ]
    assert slopes[0] == 0 and slopes[1:] == pytest.approx(expected, rel=1e-9)


def test_mu_of_0_is_the_hypergradient_of_the_last_step():
    task, lr = Quadratic(3.0), 0.1
    rate = MARTHE(lr, hyper_lr=0.0, mu=0.0)
    hyper = Hyperparameters()
    method = STN(task.model, hyper, lr=lr)
    followed = rate.attach(task, hyper, method)
    for _ in range(4):
        before = task.model.weight.detach().clone()
        rate.apply(method)
        method.weight_step(followed, hyper)
        rate.after_step()
        after, gradient = task.model.weight.detach() - task.target, 3.0 * (before - task.target)
        assert rate.slope == pytest.approx(-(3.0 * after * gradient).sum().item(), rel=1e-12)


def test_the_hyper_learning_rate_follows_the_published_rule():
    rate = RTHO(0.1, hyper_lr=1e-3, alpha=1e-2)
    task, hyper = Quadratic(3.0), Hyperparameters()
    method = STN(task.model, hyper, lr=0.1)
    followed, beta = rate.attach(task, hyper, method), 1e-3
    for _ in range(8):
        before = rate.value
        rate.apply(method)
        method.weight_step(followed, hyper)
        rate.after_step()
        beta = max(beta + 1e-2 * rate.slope * before, 0.0)
        assert rate.hyper_lr == pytest.approx(beta, rel=1e-12, abs=0)
        assert rate.value == pytest.approx(max(min(before - beta * rate.slope, 2 * before), before / 2), rel=1e-12)


def test_mu_follows_the_published_rule_from_0_on():
    """c ← c·sign(μ) + μ and μ ← q^(1/(c+1)), q = η / (∇E·g) within [0, 1], where −1 would divide by zero at first."""
    task, hyper = Quadratic(3.0), Hyperparameters()
    rate = MARTHE(0.2, hyper_lr=1e-3, mu=-1)
    method = STN(task.model, hyper, lr=0.2)
    followed, c, mu = rate.attach(task, hyper, method), 0.0, 0.0
    assert rate.mu == 0
    seen = set()
    for step in range(30):
        if step == 20:  # a learning rate so large that the two gradients oppose each other: μ goes through 0
            rate.value = 0.6
        before = task.model.weight.detach().clone()
        rate.apply(method)
        method.weight_step(followed, hyper)
        gradient, validation = (3.0 * (w - task.target) for w in (before, task.model.weight.detach()))
        rate.after_step()
        c = c * (mu > 0) + mu
        mu = min(max(rate.value / (gradient * validation).sum().item(), 0.0), 1.0) ** (1 / (c + 1))
        assert rate.mu == pytest.approx(mu, rel=1e-9)
        seen.add(round(mu, 3))
    assert len(seen) > 5 and 0 in seen


# The best learning rate is found


@pytest.mark.parametrize("start", [0.01, 3.0])
@pytest.mark.parametrize(
    "make",
    [
        partial(RTHO, hyper_lr=2e-4),
        partial(MARTHE, hyper_lr=2e-4, mu=0.9),
        partial(MARTHE, hyper_lr=2e-4, mu=-1),
        partial(MARTHE, hyper_lr=2e-4, mu=0.9, products="differences"),
    ],
    ids=["rtho", "marthe", "adaptive", "differences"],
)
def test_the_best_learning_rate_of_a_quadratic_is_found(make, start):
    """1/a, which takes w to each new target in one step, from a hundred times too small and three times too large."""
    task = Quadratic(5.0)
    assert train(task, make(start / 5.0), 400)[-1] == pytest.approx(1 / 5.0, rel=0.02)


@pytest.mark.parametrize("start", [0.01, 3.0])
def test_hd_finds_it_where_descent_goes_on(start):
    task = Quadratic(5.0, again=3, moving=False)
    assert train(task, HD(start / 5.0, hyper_lr=2e-4), 900)[-1] == pytest.approx(1 / 5.0, rel=0.1)


# Positive and finite


@pytest.mark.parametrize("slope", [1e300, -1e300, math.inf, -math.inf, math.nan, 1.0, -1.0])
def test_hostile_hypergradients_leave_it_positive_and_finite(slope):
    warnings.simplefilter("ignore")
    rate = MARTHE(0.1, hyper_lr=1e10)
    train(Quadratic(), rate, 1)
    for _ in range(2000):
        before = rate.value
        rate.descend(slope)
        assert before / 2 <= rate.value <= 2 * before
    assert 0.1 * NEVER_BELOW <= rate.value <= 0.1 / NEVER_BELOW


def test_what_is_not_finite_is_left_out_and_said_once():
    rate = RTHO(0.1, hyper_lr=1.0)
    task = Quadratic()
    train(task, rate, 2)
    assert rate.trajectory.tangents
    with pytest.warns(UserWarning, match="not finite") as told:
        rate.descend(math.nan)
        before = rate.value
        rate.descend(math.inf)
    assert rate.value == before and not rate.trajectory.tangents and len(told) == 1


def test_coming_down_to_the_lowest_value_is_said_once():
    rate = MARTHE(0.1, hyper_lr=1.0, lowest=0.03)
    train(Quadratic(), rate, 1)
    with pytest.warns(UserWarning, match=r"has come down to 0\.03, its lowest value: lower hyper_lr") as told:
        for _ in range(5):
            rate.descend(1e9)
    assert rate.value == 0.03 and not rate.too_low and len(told) == 1


# The validation gradient


class Stateful(Quadratic):
    """Its mini-batches carry a state from one to the next, each reader its own; the task traces what it is asked."""

    def __init__(self):
        super().__init__(moving=False)
        self.states, self.trace = {}, []

    def batch(self, split):
        super().batch(split)
        return split

    def predict(self, batch, draw):
        self.trace.append((batch, self.model.training, self.states.get(batch, 0)))
        return super().predict(batch, draw)

    def carry(self, batch, _):
        self.states[batch] = self.states.get(batch, 0) + 1


def test_the_validation_gradient_is_in_evaluation_mode_and_carries_its_own_state():
    task, rate = Stateful(), MARTHE(0.1, hyper_lr=1e-3, products="double_backward")
    train(task, rate, 3)
    assert task.trace == [step for count in range(3) for step in (("train", True, count), (rate.reader, False, count))]
    assert rate.reader not in ("train", "valid")


# What the products are


class Network(nn.Module):
    def __init__(self, num_hyper):
        super().__init__()
        self.first, self.second = stn.HyperLinear(3, 5, num_hyper), stn.HyperLinear(5, 1, num_hyper)

    def forward(self, x, draw):
        x = torch.tanh(self.first(x, draw.h))
        if self.training:
            x = x * (torch.rand_like(x) > torch.as_tensor(draw["rate"]).reshape(-1, 1))
        return self.second(x, draw.h)


class Regression(stn.StreamTask):
    batch_size, likelihood = 6, False

    def __init__(self, num_hyper):
        torch.manual_seed(1)
        self.model = Network(num_hyper)
        train, valid = ((torch.randn(24, 3), torch.randn(24, 1)) for _ in range(2))
        self.streams = {"train": stn.Shuffled(train, 6), "valid": stn.Shuffled(valid, 6)}

    def predict(self, batch, draw):
        return self.model(batch[0], draw)

    def loss(self, prediction, batch, _):
        loss = (prediction - batch[1]).square().mean()
        return stn.Loss(loss, loss.detach(), len(prediction))

    def evaluate(self, split, draw):
        x, y = self.streams[split].tensors
        return stn.Score((self.model(x, draw) - y).square().mean().item())


def reached(lr, method, feed, rate=None, steps=6, **options):
    """The validation loss after so many steps at a learning rate; with a `rate` also the slope that it has found."""
    hyper = Hyperparameters(rate=Tuned(0.3, range=(0, 1), feed=feed))
    task = Regression(hyper.num_tuned)
    made = method(task.model, hyper, lr=lr, **options)
    rate = rate or RTHO(lr, hyper_lr=0.0)
    followed, losses = rate.attach(task, hyper, made), []
    torch.manual_seed(2)
    whole = rate.validation_gradients

    def validation_gradients():
        task.model.eval()
        batch = task.streams[rate.reader].tensors
        losses.append(task.loss(task.predict(batch, hyper.current()), batch, hyper.current()).objective.item())
        task.streams[rate.reader].next = lambda: batch
        return whole()

    rate.validation_gradients = validation_gradients
    for _ in range(steps):
        rate.apply(made)
        made.weight_step(followed, hyper)
        rate.after_step()
    return losses[-1], rate.slope


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("products", ["double_backward", "differences"])
@pytest.mark.parametrize(
    ("method", "feed", "options"),
    [
        (stn.STN, "unconstrained", {}),
        (stn.STN, "centred", {"momentum": 0.8}),
        (stn.STN, "squashed", {"momentum": 0.8, "weight_decay": 0.02, "clip": 0.7}),
        (stn.STN, "centred", {"accumulate": 2, "clip_value": 0.1}),
        (stn.DeltaSTN, "centred", {"momentum": 0.8, "clip": 0.7}),
        (stn.DeltaSTN, "centred", {"weight_decay": 0.02, "response_lr": 0.1}),
    ],
)
def test_the_slope_is_that_of_trainings_at_other_learning_rates(method, feed, options, products):
    """Central differences of whole trainings: best response, dropout, clipping and weight decay included."""
    lr, change = 0.2, 1e-5
    rate = MARTHE(lr, hyper_lr=0.0, mu=1.0, products=products)
    _, slope = reached(lr, method, feed, rate, **options)
    (above, _), (below, _) = (reached(lr + sign * change, method, feed, **options) for sign in (1, -1))
    assert slope == pytest.approx((above - below) / (2 * change), rel=1e-5)


def test_the_kind_of_product_is_chosen_and_said():
    class Stubborn(Regression):
        def predict(self, batch, draw):
            return OnlyOnce.apply(super().predict(batch, draw))

    def run(products):
        hyper = Hyperparameters(rate=Tuned(0.3, range=(0, 1)))
        task, rate = Stubborn(1), RTHO(0.1, hyper_lr=0.0, products=products)
        method = STN(task.model, hyper, lr=0.1)
        followed, slopes = rate.attach(task, hyper, method), []
        for _ in range(4):
            rate.apply(method)
            method.weight_step(followed, hyper)
            rate.after_step()
            slopes.append(rate.slope)
        return rate, slopes

    with pytest.warns(UserWarning, match=r"OnlyOnce cannot be differentiated twice.*central differences") as told:
        rate, slopes = run("auto")
    assert rate.way == "differences" and len(told) == 1
    _, expected = run("differences")
    assert slopes == expected
    with pytest.raises(UserError, match=r'cannot be differentiated twice.*: take products="differences"'):
        run("double_backward")


def test_first_order_takes_no_products():
    rate = MARTHE(0.1, hyper_lr=1e-3, first_order=True)
    task = Quadratic(2.0)
    train(task, rate, 3)
    assert rate.way == "none" and rate.update.backward is torch.Tensor.backward
    # Without the Hessian the sum of the gradients: Z = −Σ g.
    again, total = Quadratic(2.0), torch.zeros(1, 4).double()
    other = MARTHE(0.1, hyper_lr=1e-3, first_order=True)
    hyper = Hyperparameters()
    method = STN(again.model, hyper, lr=0.1)
    followed = other.attach(again, hyper, method)
    for _ in range(3):
        other.apply(method)
        method.weight_step(followed, hyper)
        total = 0.99999 * total - again.model.weight.grad
        other.after_step()
    assert_close(other.trajectory.tangents[again.model.weight]["weight"], total)


# In the loop


def tuned(kind, **options):
    return kind(0.05, hyper_lr=1e-3, **options)


MADE = [partial(tuned, HD), partial(tuned, RTHO), partial(tuned, MARTHE, mu=-1), partial(tuned, MARTHE, alpha=1e-4)]


def regression_run(trainer, rate, **options):
    task = Regression(1)
    sources = {"rate": Tuned(0.3, range=(0, 1))}
    return trainer(task, sources=sources, learning_rate=rate, epochs=4, stn={"lr": 0.05, "momentum": 0.9}, **options)


MADE += [partial(tuned, MARTHE, products="differences")]


@pytest.mark.parametrize("make", MADE, ids=["hd", "rtho", "adaptive", "alpha", "differences"])
def test_a_run_that_stops_goes_on_bit_for_bit(trainer, make):
    torch.manual_seed(0)
    whole = regression_run(trainer, make())
    assert whole.train()
    asked = iter(range(100))
    torch.manual_seed(0)
    part = regression_run(trainer, make(), stop=lambda: next(asked) == 5)
    assert not part.train()
    rest = regression_run(trainer, make(), resume=True)
    rest.train()
    assert rest.learning_rate.value == whole.learning_rate.value != 0.05
    assert rest.learning_rate.columns() == whole.learning_rate.columns()
    for one, other in zip(rest.task.model.parameters(), whole.task.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_size_of_0_trains_as_a_constant_learning_rate(trainer):
    """Hypergradients change neither mini-batches nor masks of the training."""
    task = Quadratic(moving=False)
    expected = Quadratic(moving=False)
    trained = trainer(task, tuned=False, learning_rate=RTHO(0.05, hyper_lr=0.0), stn={"lr": 0.05})
    for _ in range(5):
        trained.weight_step()
    plain = trainer(expected, tuned=False, learning_rate=LearningRate(0.05), stn={"lr": 0.05})
    for _ in range(5):
        plain.weight_step()
    assert torch.equal(task.model.weight, expected.model.weight)


def test_validation_has_its_own_place_in_the_data(trainer):
    made = regression_run(trainer, tuned(RTHO))
    made.train()
    own = made.task.streams["valid"]
    assert (own.epochs, own.position) != (0, 0)  # hyperparameter steps'
    reader = made.task.streams[made.learning_rate.reader]
    assert reader.epochs * 24 + reader.position == 6 * made.train_step


def test_the_learning_rate_is_the_optimizers_where_none_is_given():
    task, hyper = Quadratic(), Hyperparameters()
    rate = HD(hyper_lr=1e-3)
    rate.attach(task, hyper, STN(task.model, hyper, lr=0.07))
    assert rate.value == 0.07 and rate.bounds == pytest.approx((7e-8, 7e4))


def test_groups_keep_their_ratio():
    task, hyper = Regression(0), Hyperparameters(rate=stn.Constant(0.1))
    groups = [
        {"params": task.model.first.parameters(), "lr": 0.1},
        {"params": task.model.second.parameters(), "lr": 0.02},
    ]
    method = STN(task.model, hyper, optimizer=(optimizer := torch.optim.SGD(groups)))
    rate = RTHO(hyper_lr=1e-2)
    followed = rate.attach(task, hyper, method)
    for _ in range(5):
        rate.apply(method)
        method.weight_step(followed, hyper)
        rate.after_step()
    rate.apply(method)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first == rate.value != 0.1 and second == pytest.approx(0.2 * first)


def test_the_response_of_two_optimizers_keeps_its_ratio():
    hyper = Hyperparameters(rate=Tuned(0.3, range=(0, 1)))
    task = Regression(1)
    elementary, response = stn.split_parameters(task.model)
    pair = torch.optim.SGD(elementary, 0.1), torch.optim.SGD(response, 0.03)
    method = stn.DeltaSTN(task.model, hyper, optimizer=pair)
    rate = RTHO(hyper_lr=1e-2)
    followed = rate.attach(task, hyper, method)
    for _ in range(3):
        rate.apply(method)
        method.weight_step(followed, hyper)
        rate.after_step()
    rate.apply(method)
    assert pair[0].param_groups[0]["lr"] == rate.value != 0.1
    assert pair[1].param_groups[0]["lr"] == pytest.approx(0.3 * rate.value)


def test_it_belongs_to_one_training():
    rate = HD(0.1, hyper_lr=1.0)
    train(Quadratic(), rate, 1)
    with pytest.raises(UserError, match="this HD has tuned another training: make a new one"):
        train(Quadratic(), rate, 1)


# What is refused


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MARTHE(0.0, hyper_lr=1.0), "the learning rate is 0.0: it must start above 0"),
        (lambda: HD(math.inf, hyper_lr=1.0), "the learning rate is inf"),
        (lambda: HD(0.1, hyper_lr=-1.0), "hyper_lr is -1.0"),
        (lambda: HD(0.1, hyper_lr=1.0, lowest=0.0), "lowest is 0.0"),
        (lambda: HD(0.1, hyper_lr=1.0, lowest=0.5), "lowest is 0.5"),
        (lambda: MARTHE(0.1, hyper_lr=1.0, mu=1.5), "mu is 1.5"),
        (lambda: MARTHE(0.1, hyper_lr=1.0, alpha=-1.0), "alpha is -1.0"),
        (lambda: MARTHE(0.1, hyper_lr=1.0, products="exact"), "products is 'exact': give one of auto"),
    ],
)
def test_numbers_out_of_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_grad_scaler_is_refused():
    task, hyper = Quadratic(), Hyperparameters()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = STN(task.model, hyper, lr=0.1, scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(UserError, match="not tuned with a GradScaler"):
        HD(hyper_lr=1.0).attach(task, hyper, method)
