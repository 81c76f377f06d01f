"""Draw exact and approximate best responses of ridge regression, and hypergradients against what each costs."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("toy.best_response")

import math
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from stn.scripts.figures import add_out, write
from stn.scripts.options import OneLineParser, exit_status, nonnegative_int, positive_int, refuse_more_threads
from stn.scripts.output import say
from stn.scripts.tables import markdown_table
from toy import response_figures
from toy.hypergradients import Hypergradient, angle, implicit, unrolled
from toy.response_figures import Learned
from toy.responses import Hypernetwork, LinearNetwork, RidgeTask, hypergradient, jacobian, response, train
from toy.ridge import Ridge, affine_optimum, linearized_optimum, make_ridge, tuned

NAME = "best_response.py"
LAM = -1.5  # λ₀, a penalty of 0.22
SCALES = {"too small": 0.01, "just right": 0.5, "too wide": 2.0}
LR, LR_EACH = 0.1, 0.05  # to one penalty, and to a penalty on each input, where h is longer
REACH = 5.0  # of the figure, on either side of λ₀
DESCENT = (2, 3, 5, 10, 20, 50, 100)  # steps of gradient descent
SHOWN = (5, 20, 100)  # of these, in the table
ITERATIONS = (1, 2, 4, 6)  # of conjugate gradients


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = OneLineParser(prog=NAME, description=__doc__)
    add_out(parser, "plots", "FOLDER", "where the figures go")
    add = parser.add_argument
    words = "of the data, the first weights and the perturbations (default: 0)"
    add("--seed", type=nonnegative_int, default=0, metavar="N", help=words)
    add("--steps", type=positive_int, default=1000, metavar="N", help="weight steps of a training (default: 1000)")
    add("--threads", type=positive_int, metavar="N", help="CPU threads (default: PyTorch's)")
    args = parser.parse_args(argv)
    return exit_status(NAME, lambda: draw(args), "start it again")


def draw(args: Namespace) -> None:
    """Learn the responses, draw the figures and print the tables."""
    refuse_more_threads(args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ridge = make_ridge(seed=args.seed)
    drawn = partial(write_figure, args.out)
    say(f"learning responses to one penalty, {args.steps} weight steps each")
    grid, exact, panels = learn_responses(ridge, args.steps)
    drawn("responses", response_figures.responses(grid, exact, LAM, panels))
    drawn("jacobians", response_figures.errors(panels))
    say(jacobian_table(panels))
    say(f"learning responses to {ridge.x.shape[1]} penalties, {2 * args.steps} weight steps each")
    curves, lines, optimum = compare_hypergradients(ridge, 2 * args.steps)
    drawn("hypergradients", response_figures.hypergradients(curves, optimum))
    say(markdown_table(["hypergradient by", "training", "beyond", "angle (°)", "relative error"], lines))


def write_figure(folder: Path, name: str, figure: Figure) -> None:
    write(figure, folder / f"toy-best-response-{name}")


def learn_responses(ridge: Ridge, steps: int) -> tuple[numpy.ndarray, numpy.ndarray, response_figures.Panels]:
    """One penalty on all inputs: the grid of λ, the exact weight there, and what was learned at each scale.

    What is drawn is the weight along the principal direction that responds most at λ₀.
    """
    lam, shifts = torch.tensor([LAM]).double(), torch.linspace(-REACH, REACH, 201).double()[:, None]
    network = ridge.gated_network()
    most = (network.hidden @ ridge.jacobian(lam)).abs().argmax()
    direction = network.hidden[most] * network.output[most].sign()
    exact = torch.stack([ridge.best_response(lam + shift) @ direction for shift in shifts])
    inputs = len(direction)

    def learn(model: nn.Module, feed: str, scale: float, optimum: Tensor | None = None) -> Learned:
        hyper, errors = tuned(LAM, scale, 1, feed), {}

        def seen(step: int, _: object) -> None:
            if step in spread(steps):
                errors[step] = relative(jacobian(model, hyper), ridge.jacobian(lam))

        train(model, ridge, hyper, steps, LR, seen)
        least = math.nan if optimum is None else relative(optimum, ridge.jacobian(lam))
        return Learned(scale, (response(model, hyper, shifts) @ direction).numpy(), errors, least)

    overall = learn(Hypernetwork(1, 32, inputs), "unconstrained", SCALES["too wide"])
    panels = {}
    for name, scale in SCALES.items():
        affine = affine_optimum(ridge, lam, scale)[1][:, None]
        panels[name] = {
            "local hypernetwork": learn(Hypernetwork(1, inputs), "unconstrained", scale, affine),
            "STN": learn(LinearNetwork(inputs, 1), "unconstrained", scale, affine),
            "Δ-STN": learn(LinearNetwork(inputs, 1), "centred", scale, linearized_optimum(ridge, lam, scale)),
            "global hypernetwork": overall,
        }
    return (lam + shifts)[:, 0].numpy(), exact.numpy(), panels


def jacobian_table(panels: response_figures.Panels) -> str:
    """The relative errors of the Jacobians after the training, and of the optima that it tends to."""
    found = {(name, one.scale): one for learned in panels.values() for name, one in learned.items()}
    lines = []
    # The global hypernetwork, which is the same in all panels, comes last.
    for (name, scale), one in sorted(found.items(), key=lambda item: math.isnan(item[1].optimum)):
        optimum = "" if math.isnan(one.optimum) else in_figures(one.optimum)
        lines.append([name, f"{scale:g}", in_figures([*one.errors.values()][-1]), optimum])
    return markdown_table(["response", "scale", "error of its Jacobian", "of its optimum"], lines)


Curves = dict[str, list[tuple[int, int, float]]]  # by method: training, beyond it, and the angle


def compare_hypergradients(ridge: Ridge, steps: int) -> tuple[Curves, list[list[str]], float]:
    """A penalty on each input: angles by cost, lines of a table, and the angle of the Δ-STN's optimum."""
    inputs, scale = ridge.x.shape[1], SCALES["just right"]
    lam = torch.full((inputs,), LAM).double()
    exact, curves, lines = ridge.hypergradient(lam), {}, []

    def add(method: str, found: Hypergradient, shown: bool) -> None:
        value, training, beyond = found
        curves.setdefault(method, []).append((training, beyond, angle(value, exact)))
        if shown:
            numbers = in_figures(angle(value, exact)), in_figures(relative(value, exact))
            lines.append([method, str(training), str(beyond), *numbers])

    for count in DESCENT:
        add("unrolled", unrolled(ridge, lam, count), count in SHOWN)
    for iterations in ITERATIONS:
        for count in DESCENT:
            add(f"implicit, {iterations} CG", implicit(ridge, lam, count, iterations), count == SHOWN[-1])
    # A best-response layer has two products, the elementary and the response's; the Δ-STN's response step is one with a
    # tangent, which has two as well, after a plain one.
    for method, feed, response_cost in (("STN", "unconstrained", 1), ("Δ-STN", "centred", 2)):
        hyper = tuned(LAM, scale, inputs, feed)

        def seen(step: int, task: RidgeTask, method=method, hyper=hyper, response_cost=response_cost) -> None:
            if step in spread(steps):
                found = Hypergradient(hypergradient(task, hyper), step, response_cost * step + 1)
                add(method, found, step in (steps // 10, steps))

        train(LinearNetwork(inputs, inputs), ridge, hyper, steps, LR_EACH, seen)
    slope = ridge.validation_gradient(ridge.best_response(lam))
    return curves, lines, angle(linearized_optimum(ridge, lam, scale).T @ slope, exact)


def spread(steps: int) -> set[int]:
    """Some of the steps, evenly on a logarithmic scale, and the last."""
    return {steps // 10, *numpy.geomspace(1, steps, 25).round().astype(int).tolist()}


def relative(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def in_figures(number: float) -> str:
    """With two of them, or more where it is 100 or above: 1.2e-05, 0.25, 14, 123."""
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"
