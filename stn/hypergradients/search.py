"""A search for the step size of a learning rate's hypergradient: short probes of one training run."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from statistics import fmean, median
from typing import NamedTuple

from stn.bilevel import evaluate
from stn.errors import Diverged, UserError
from stn.hypergradients.policies import TunedRate
from stn.recorder import Unlogged, Unseen
from stn.training import Trainer

PROBES = 8  # a factor of ten apart
EVALUATIONS = 5  # in the second half of a probe, less often where it has few steps
RUN_AWAY = 100.0  # a factor of the learning rate, within a probe
OPTIONS = ("hyper_lr", "alpha")


class Probe(NamedTuple):
    """value: of the option that was tried. lr: the learning rate after the probe's last step.

    loss: the validation loss in nats, infinite where the probe diverged: the mean of some evaluations in its second
    half, as a single one fluctuates with the learning rate.
    """

    value: float
    lr: float
    loss: float


def find_hyper_lr(
    trainer: Trainer, steps: int = 100, option: str = "hyper_lr", tell: Callable[[Probe], object] = lambda _: None
) -> list[Probe]:
    """Short probes with step sizes a factor of ten apart, from the largest down, each from the trainer's present state.

    Before them runs one at a constant learning rate, value 0, whose hypergradients say what the largest is: that at
    which a step changes the learning rate ten times over; as steps are bounded, a larger one does the same. Those that
    diverge are among what is returned. The trainer ends where it began, and its run has no trace of them.

    steps: weight steps of each. option: of the trainer's learning rate, "hyper_lr", or "alpha" of MARTHE and RTHO at
    their hyper_lr. tell: called with each probe when it is done.

    Raises UserError where the learning rate is not tuned, its hypergradients are all 0, alpha's hyper_lr is, or
    training diverges at the constant one.
    """
    rate = trainer.learning_rate
    if not isinstance(rate, TunedRate):
        raise UserError("the learning rate is not tuned: give one of stn.HD, stn.RTHO, stn.MARTHE")
    if option not in OPTIONS or not hasattr(rate, option):
        raise UserError(f"{type(rate).__name__} has no {option} to search for: give one of hyper_lr")
    if option == "alpha" and rate.hyper_lr == 0:
        raise UserError("the hyper_lr that alpha is to change is 0: start it above 0")
    trainer.recorder.flush()
    recorder = trainer.recorder
    told, trainer.on_step = (recorder.run, recorder.progress, trainer.on_step), lambda _: None
    recorder.run, recorder.progress = Unlogged(recorder.run.settings), Unseen()
    state, own = deepcopy(trainer.state_dict()), {name: getattr(rate, name) for name in OPTIONS if hasattr(rate, name)}
    slopes: list[float] = []

    def probe(value: float, options: Mapping[str, float]) -> Probe:
        recorder.pending.clear()  # of a probe that diverged
        trainer.load_state_dict(deepcopy(state))
        vars(rate).update(options)
        found = Probe(value, *_train(trainer, steps, lambda: slopes.append(abs(rate.slope))))
        tell(found)
        return found

    try:
        probes = [probe(0.0, dict.fromkeys(own, 0.0))]
        if probes[0].loss == math.inf:
            raise UserError("training diverges at the constant learning rate: start at a lower one")
        size = median(slopes)
        if not 0 < size < math.inf:
            raise UserError("the first steps' hypergradients are 0 or not finite: start at another learning rate")
        largest = 10 * state["learning_rate"]["value"] / size
        if option == "alpha":  # at which a step changes hyper_lr ten times over
            largest *= own["hyper_lr"] / state["learning_rate"]["value"] ** 2
        sizes = [largest / 10**place for place in range(PROBES)]
        return probes + [probe(value, {**own, option: value}) for value in sizes]
    finally:
        recorder.pending.clear()
        trainer.load_state_dict(state)
        vars(rate).update(own)
        recorder.run, recorder.progress, trainer.on_step = told


def recommended(probes: Sequence[Probe]) -> Probe | None:
    """Of those of `find_hyper_lr` that of the lowest validation loss, of equal ones the smallest; None without any.

    One that diverged is none, nor one whose learning rate ran away, to more than RUN_AWAY times the constant one's or
    less than that part of it: one that has collapsed may have the lowest loss so soon, and learn nothing from then on.
    """
    constant, *moving = probes
    near = [one for one in moving if 1 / RUN_AWAY <= one.lr / constant.lr <= RUN_AWAY and one.loss < math.inf]
    return min(near, key=lambda probe: (probe.loss, probe.value), default=None)


def _train(trainer: Trainer, steps: int, after_step: Callable[[], None]) -> tuple[float, float]:
    """The learning rate after so many weight steps, and the mean validation loss at places of their second half."""
    first, losses = trainer.train_step, {}
    try:
        for part in range(EVALUATIONS + 1, 2 * EVALUATIONS + 1):
            while trainer.train_step < first + steps * part / (2 * EVALUATIONS):
                trainer.alternate()
                after_step()
            trainer.recorder.flush()
            losses[trainer.train_step] = evaluate(trainer.task, trainer.hyper, "valid").loss
        loss = fmean(losses.values())
    except Diverged:
        loss = math.inf
    return trainer.learning_rate.value, loss if math.isfinite(loss) else math.inf
