"""The exact best response of ridge regression, what responses learn of it, and hypergradients by other means."""

import math

import pytest
import torch
from lstm_runs import execute, refused
from torch.func import grad, hessian, jacrev
from torch.testing import assert_close

import stn
from toy import best_response
from toy.hypergradients import angle, conjugate_gradients, descend, implicit, unrolled
from toy.responses import Hypernetwork, LinearNetwork, RidgeTask, hypergradient, jacobian, response
from toy.ridge import Ridge, affine_optimum, linearized_optimum, make_ridge, tuned

pytestmark = pytest.mark.usefixtures("double")
INPUTS = 4
LAM = torch.tensor([-0.7], dtype=torch.float64)
EACH = torch.tensor([-0.7, -2.0, 0.3, 1.1], dtype=torch.float64)
any_lam = pytest.mark.parametrize("lam", [LAM, EACH], ids=["one", "each"])


@pytest.fixture
def ridge():
    return make_ridge(INPUTS, examples=40)


# Closed forms


@any_lam
def test_the_best_response_minimizes_the_training_loss(ridge, lam):
    w = ridge.best_response(lam)
    assert_close(grad(ridge.training_loss)(w, lam), torch.zeros(INPUTS))
    assert_close(hessian(ridge.training_loss)(w, lam), ridge.hessian(lam))
    assert torch.linalg.eigvalsh(ridge.hessian(lam)).min() > 0


@any_lam
def test_its_jacobian_and_the_hypergradient_are_autograds(ridge, lam):
    assert_close(ridge.jacobian(lam), jacrev(ridge.best_response)(lam))
    assert_close(ridge.hypergradient(lam), grad(lambda lam: ridge.validation_loss(ridge.best_response(lam)))(lam))


def test_the_data_are_as_they_are_said_to_be():
    ridge = make_ridge(examples=20000)
    low, *_, high = torch.linalg.eigvalsh(ridge.gram)
    assert_close(torch.stack([low, high]), torch.tensor([0.03, 3.0]), rtol=0.05, atol=0)


# The theorem


def two_layer_loss(ridge, hidden, output, lam):
    """Of y = sᵀ(Q x), with its Jacobian computed by autograd, example by example."""

    def predict(x):
        return output @ (hidden @ x)

    jacobians = torch.func.vmap(grad(predict))(ridge.x)
    data = (torch.func.vmap(predict)(ridge.x) - ridge.t).square().mean() / 2
    return data + (lam.exp() * jacobians.square()).sum(1).mean() / 2


@pytest.mark.parametrize("spanned", [True, False], ids=["spanned", "not-spanned"])
def test_sigmoid_gates_of_one_network_give_the_best_response_to_every_penalty(ridge, spanned):
    if not spanned:  # the last input repeats the first
        x = torch.cat([ridge.x[:, :-1], ridge.x[:, :1]], 1)
        ridge = Ridge(x, ridge.t, ridge.x_valid, ridge.t_valid)
    network = ridge.gated_network()
    for lam in torch.linspace(-12, 12, 13)[:, None]:
        hidden = network.gate(lam)[:, None] * network.hidden
        assert_close(hidden.T @ network.output, network.weights(lam))
        assert_close(network.weights(lam), ridge.best_response(lam), rtol=1e-8, atol=1e-9)
        gradients = grad(two_layer_loss, argnums=(1, 2))(ridge, hidden, network.output, lam)
        for gradient in gradients:
            assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_the_ungated_network_solves_the_problem_without_a_penalty(ridge):
    network, never = ridge.gated_network(), torch.tensor([-math.inf])
    assert_close(network.hidden.T @ network.output, torch.linalg.lstsq(ridge.x, ridge.t[:, None]).solution[:, 0])
    assert_close(network.weights(torch.tensor([-60.0])), ridge.best_response(never))


def test_unequal_penalties_of_the_inputs_have_no_such_gates(ridge):
    """A gate of each direction, whatever its value, keeps w in the span of one change; these leave it."""
    network = ridge.gated_network()
    ratios = (network.hidden @ ridge.best_response(EACH)) / network.output
    assert ((ratios < 0) | (ratios > 1)).any()  # a sigmoid is between 0 and 1
    # With uncorrelated inputs, the inputs are the principal directions, and gates suffice.
    x = torch.linalg.qr(ridge.x).Q * torch.tensor([4.0, 3.0, 2.0, 1.0])
    plain = Ridge(x, ridge.t, ridge.x_valid, ridge.t_valid)
    network = plain.gated_network()
    order = network.hidden.abs().argmax(1)
    assert_close(network.weights(EACH[order]), plain.best_response(EACH))


# What responses learn


class FixedNoise(stn.Hyperparameters):
    """Perturbs by the given noise (K, H), row after row, in place of random numbers."""

    noise, turn = torch.empty(0), 0

    def perturbed(self, batch_size, noise=None, differentiable=False):
        noise = self.noise[self.turn % len(self.noise)].expand(batch_size, -1)
        self.turn += 1
        return super().perturbed(batch_size, noise, differentiable)


def converge(model, ridge, sources, noise, lr=0.4, steps=400):
    """The hyperparameters, after steps on the exact mean over the noise.

    A Δ-STN's response is learned the faster the narrower its perturbation, as its loss is the flatter.
    """
    hyper = FixedNoise(**sources)
    hyper.noise = noise
    task, delta = RidgeTask(model, ridge), bool(hyper.centred.any())
    if delta:
        stn.zero_gates(model)
    options = {"lr": lr, "momentum": 0.9, "accumulate": len(noise)}
    if delta:
        options["response_lr"] = lr / hyper.scale.square().min().item()
    method = (stn.DeltaSTN if delta else stn.STN)(model, hyper, **options)
    for _ in range(steps):
        method.weight_step(task, hyper)
    return hyper


def signs(count):
    """Every pattern of ±1, whose odd moments vanish."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * count).reshape(-1, count)


def penalties(values, **options):
    return {f"penalty{number}": stn.Tuned(value, **options) for number, value in enumerate(values)}


def small_ridge(inputs):
    """Curvatures between 1 and 3, so that little training converges."""
    x, t = torch.randn(12, inputs), torch.randn(12)
    x = torch.linalg.qr(x).Q * torch.linspace(1, 3, inputs).sqrt() @ torch.linalg.qr(torch.randn(inputs, inputs)).Q
    return Ridge(x * math.sqrt(12), t, x, t)


@pytest.mark.parametrize("count", [1, 2])
def test_the_delta_stn_recovers_the_exact_jacobian_where_the_perturbation_is_linear(count):
    """The penalties themselves are perturbed, widely: the training loss is quadratic in w, and affine in them."""
    ridge, values = small_ridge(2), [0.8, 1.5][:count]
    model = LinearNetwork(2, count)
    hyper = converge(model, ridge, penalties(values, scale=0.7), signs(count))
    lam = torch.tensor(values).log()
    exact = ridge.jacobian(lam) / lam.exp()  # with respect to the penalty, not to its logarithm
    assert_close(jacobian(model, hyper), exact, rtol=1e-7, atol=1e-9)
    assert_close(model(hyper.current().h)[0], ridge.best_response(lam), rtol=1e-9, atol=1e-9)
    task = RidgeTask(model, ridge)
    assert_close(hypergradient(task, hyper), ridge.hypergradient(lam) / lam.exp(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_the_delta_stns_jacobian_is_off_as_the_theory_says_where_the_log_of_the_penalty_is_perturbed(scale):
    """For ε = ±s, E[ε exp ε] = s sinh s and E[ε² exp ε] = s² cosh s."""
    ridge, model = small_ridge(2), LinearNetwork(2, 1)
    hyper = converge(model, ridge, penalties([LAM.exp().item()], scale=scale, transform="exp"), signs(1))
    found, kappa, w = jacobian(model, hyper)[:, 0], LAM.exp(), ridge.best_response(LAM)
    system = ridge.gram + kappa * math.cosh(scale) * torch.eye(2)
    assert_close(found, -torch.linalg.solve(system, kappa * math.sinh(scale) / scale * w), rtol=1e-7, atol=1e-9)
    error = (found - ridge.jacobian(LAM)[:, 0]).norm() / ridge.jacobian(LAM).norm()
    assert 0.01 * scale**2 < error < scale**2 / 2


def quadrature(scale):
    """Nodes ε and weights of E over N(0, scale²)."""
    gauss = torch.linspace(-12, 12, 4001)
    weights = torch.exp(-gauss.square() / 2)
    return gauss * scale, weights / weights.sum()


@any_lam
@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_the_linearized_optimum_is_where_the_expected_gradient_vanishes(ridge, lam, scale):
    w, slope = ridge.best_response(lam), linearized_optimum(ridge, lam, scale)
    nodes, weights = quadrature(scale)
    for column in range(len(lam)):  # of the others' perturbations, only the penalty's mean matters
        mean = torch.full_like(lam, scale**2 / 2)
        total = torch.zeros(INPUTS)
        for epsilon, weight in zip(nodes[::8], weights[::8] * 8, strict=True):
            shift = mean.clone()
            shift[column] = epsilon
            total += weight * epsilon * grad(ridge.training_loss)(w + slope[:, column] * epsilon, lam + shift)
        assert_close(total, torch.zeros(INPUTS), rtol=0, atol=1e-7)


def test_the_linearized_optimum_tends_to_the_exact_jacobian_as_the_square_of_the_scale(ridge):
    def error(lam, scale):
        return (
            (linearized_optimum(ridge, lam, scale) - ridge.jacobian(lam)).norm() / ridge.jacobian(lam).norm()
        ).item()

    for lam in (LAM, EACH):
        assert error(lam, 1e-3) < 1e-6
        assert error(lam, 0.1) / error(lam, 0.05) == pytest.approx(4, rel=0.02)
        assert error(lam, 0.1) < 0.1**2
    assert error(LAM, 2.0) > 0.3  # so wide a perturbation misses it


def test_the_stn_converges_to_the_best_affine_response():
    """As it is of a Gaussian, for which the three points of a Gauss–Hermite rule stand in the training."""
    scale, model, ridge = 0.6, Hypernetwork(1, INPUTS), small_ridge(INPUTS)
    noise = math.sqrt(3) * torch.tensor([-1.0, 0, 0, 0, 0, 1])[:, None]  # Gauss–Hermite: ⅙, ⅔, ⅙
    sources = penalties([LAM.exp().item()], scale=scale, transform="exp", feed="unconstrained")
    hyper = converge(model, ridge, sources, noise, lr=0.1, steps=150)
    w, slope = affine_optimum(ridge, LAM, scale)
    assert_close(response(model, hyper, torch.zeros(1, 1))[0], w, rtol=0.02, atol=0)
    assert_close(jacobian(model, hyper)[:, 0], slope, rtol=0.02, atol=0)


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_the_affine_optimum_minimizes_the_expected_training_loss(ridge, scale):
    nodes, weights = quadrature(scale)

    def expected(w, slope):
        losses = torch.func.vmap(lambda epsilon: ridge.training_loss(w + slope * epsilon, LAM + epsilon))(nodes)
        return (weights * losses).sum()

    for gradient in grad(expected, argnums=(0, 1))(*affine_optimum(ridge, LAM, scale)):
        assert_close(gradient, torch.zeros(INPUTS), rtol=0, atol=1e-8)


def test_the_linear_networks_weights_are_its_jacobian():
    model, h = LinearNetwork(INPUTS, 2), torch.randn(3, 2)
    torch.nn.init.normal_(model.hidden.gate)
    x = torch.randn(3, INPUTS)
    assert_close((model(h) * x).sum(1), model.output(model.hidden(x, h))[:, 0])


def test_the_tasks_objective_is_the_mean_of_the_examples_own(ridge):
    hyper, model = tuned(-1.0, 0.5, INPUTS, "unconstrained"), Hypernetwork(INPUTS, INPUTS).double()
    task = RidgeTask(model.train(), ridge)
    batch, draw = task.batch("train"), hyper.perturbed(task.batch_size)
    found = task.loss(task.predict(batch, draw), batch, draw)
    one = [
        Ridge(x[None], t[None], x[None], t[None]).training_loss(model(h), h)
        for x, t, h in zip(*batch, draw.h, strict=True)
    ]
    assert_close(found.objective, torch.stack(one).mean())


# Hypergradients by other means


@any_lam
def test_unrolling_and_implicit_differentiation_tend_to_the_exact_hypergradient(ridge, lam):
    exact = ridge.hypergradient(lam)
    assert_close(unrolled(ridge, lam, 400).value, exact, rtol=1e-6, atol=1e-9)
    assert_close(implicit(ridge, lam, 400, INPUTS).value, exact, rtol=1e-6, atol=1e-9)
    assert angle(implicit(ridge, lam, 400, 1).value, exact) > 1e-3 or len(lam) == 1
    assert not unrolled(ridge, lam, 1).value.any()  # from weights of 0, the penalty has no part in the first step


def test_unrolling_two_steps_by_hand(ridge):
    rate = 1 / torch.linalg.eigvalsh(ridge.hessian(EACH)).max()
    first = rate * ridge.moment
    second = first - rate * (ridge.hessian(EACH) @ first - ridge.moment)
    assert_close(descend(ridge, EACH, 2).detach(), second)
    slope = -rate * EACH.exp() * first  # of the second step in λ, the rate held
    found = unrolled(ridge, EACH, 2)
    assert_close(found.value, slope * ridge.validation_gradient(second))
    assert (found.training, found.beyond) == (2, 5)


def test_implicit_differentiation_costs_a_product_an_iteration_and_one_for_the_penalties(ridge):
    found = implicit(ridge, EACH, 10, 3)
    assert (found.training, found.beyond) == (10, 2 * 3 + 3)


def test_conjugate_gradients_solve_in_as_many_iterations_as_dimensions(ridge):
    matrix, target = ridge.hessian(EACH), torch.randn(INPUTS)
    solution, asked = torch.linalg.solve(matrix, target), []

    def product(direction):
        asked.append(direction)
        return matrix @ direction

    assert_close(conjugate_gradients(product, target, INPUTS), solution)
    assert len(asked) == INPUTS
    errors = [(conjugate_gradients(product, target, k) - solution) for k in range(INPUTS)]
    lengths = [(error @ matrix @ error).item() for error in errors]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] > 1e-6
    assert not conjugate_gradients(product, torch.zeros(INPUTS), 3).any()


def test_angles():
    along, across = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    assert angle(along, across) == pytest.approx(90) and angle(-2 * along, along) == pytest.approx(180)
    tiny = torch.tensor([math.cos(1e-9), math.sin(1e-9)])
    assert angle(tiny, along) == pytest.approx(math.degrees(1e-9), rel=1e-6)
    assert angle(torch.zeros(2), along) == 90


# The script


@pytest.mark.usefixtures("same_threads")
def test_the_script_draws_its_figures_and_prints_its_tables(tmp_path, capsys):
    command = ["--out", tmp_path, "--steps", 12, "--threads", 1]
    status, out, error = execute(best_response, command, capsys)
    assert (status, error) == (0, "")
    for name in ("responses", "jacobians", "hypergradients"):
        for suffix in ("pdf", "png"):
            file = tmp_path / f"toy-best-response-{name}.{suffix}"
            assert file.stat().st_size > 5000 and f"wrote {file}" in out
    assert "| global hypernetwork" in out and "| implicit" in out


def test_what_the_script_cannot_use_is_a_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for flags, word in ((["--steps", "0"], "--steps"), (["--seed", "x"], "--seed"), (["--out", ""], "empty")):
        refused(execute(best_response, flags, capsys), word, script=best_response.NAME)
