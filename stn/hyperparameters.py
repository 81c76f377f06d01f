"""The registry of hyperparameters: names, ranges, bijections, perturbation and entropy.

A tuned hyperparameter lives unconstrained, λ ∈ R; a bijection maps λ onto its range (MacKay et al. 2019,
section 3.3 and appendix B). While the weights train, λ is perturbed by Gaussian noise of a learnable scale,
so that the best response is learned in a neighbourhood of λ (MacKay et al. 2019, eq. 12-15).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn import transforms
from stn.errors import UserError
from stn.ranks import ALONE
from stn.schedules import Constant, Schedule
from stn.transforms import Transform

INF = math.inf

Feed = Literal["unconstrained", "squashed", "centred"]


@dataclass(frozen=True)
class Tuned:
    """A hyperparameter that is learned while the network trains.

    initial: the value it starts at, strictly inside `range`; a discrete one, an integer n, starts at n + ½.
    range: (low, high), open; either end may be infinite (default: that of the transform).
    scale: standard deviation of λ's perturbation, 0 or more; 0 is no perturbation, and cannot be learned.
    per_example: perturb each example of a mini-batch by itself, or (False) the whole mini-batch alike, as a
        value that acts on shared weights must be.
    discrete: the value is rounded down to an integer; λ and the logs stay continuous.
    feed: what the best response sees: centred, λ's deviation from its current value, which is the perturbation ε or 0
        (Bae & Grosse 2020; the Δ-STN needs it); λ itself, unconstrained; or λ squashed by its range's own sigmoid or
        softplus, whose size and spread vanish near an end of the range (docs/rates-near-zero.md).
    transform: the map from λ to the value: "sigmoid", "stretched_sigmoid" (onto a range), "softplus", "lower_softplus",
        "upper_softplus" (above or below an end of the range), "exp", "logit", "linear", or a pair (forward, inverse) of
        functions of tensors (default: what the range implies, a sigmoid, softplus or nothing).

    Raises UserError, once it is one of some `Hyperparameters`, for what does not fit together.
    """

    initial: float
    range: tuple[float, float] = (-INF, INF)
    scale: float = 1.0
    per_example: bool = True
    discrete: bool = False
    feed: Feed = "centred"
    transform: str | Transform | tuple | None = None


@dataclass(frozen=True, eq=False)
class Draw:
    """Every hyperparameter's value for one mini-batch; an immutable input of the model.

    h: (B, H), the best response's input for each example; one row when all examples share it. It carries
       λ's gradient in a hyperparameter step, and none in a weight step.
    """

    h: Tensor
    tuned_values: Tensor  # (B or 1, H)
    columns: Mapping[str, int]
    shared: frozenset[str]  # names of those that have one value for all examples
    scheduled: Mapping[str, float]  # of those that are not tuned
    generator: torch.Generator | None = None  # of random numbers that all examples share; None: PyTorch's own

    def __getitem__(self, name: str) -> float | Tensor:
        """The value of one hyperparameter: a float, a scalar tensor, or (B,) where it differs per example.

        Raises KeyError that names all hyperparameters.
        """
        if name in self.scheduled:
            return self.scheduled[name]
        if name not in self.columns:
            known = ", ".join([*self.columns, *self.scheduled]) or "none"
            raise KeyError(f"no hyperparameter {name!r}: there are {known}")
        column = self.tuned_values[:, self.columns[name]]
        return column[0] if name in self.shared else column

    def __contains__(self, name: str) -> bool:
        return name in self.scheduled or name in self.columns

    def __repr__(self) -> str:
        values = (f"{name}={_shown(self[name])}" for name in (*self.columns, *self.scheduled))
        return f"Draw({', '.join([f'h: {tuple(self.h.shape)}', *values])})"

    def first(self, examples: int) -> "Draw":
        """The draw of the first so many examples; itself where all share one row."""
        if len(self.h) <= examples or len(self.h) == 1:
            return self
        return replace(self, h=self.h[:examples], tuned_values=self.tuned_values[:examples])


class Hyperparameters(nn.Module):
    """All hyperparameters of an experiment, by name, each with the source of its values.

    `unconstrained` (H,) holds λ, `raw_scale` (H,) the scales before their softplus, `scheduled` the present values of
    those that follow a schedule.

    >>> from stn.schedules import Constant
    >>> hyper = Hyperparameters(dropout=Tuned(0.25, range=(0, 1)), alpha=Constant(2.0))
    >>> hyper.num_tuned, hyper.current()["alpha"], round(hyper.current()["dropout"].item(), 4)
    (1, 2.0, 0.25)
    >>> hyper
    Hyperparameters(
      dropout=0.25 in (0, 1), scale=1
      alpha=2
    )

    Raises UserError for an initial value that is not strictly inside its range, or a scale below 0.
    """

    def __init__(self, **sources: Tuned | Schedule):
        super().__init__()
        for name, source in sources.items():
            if not isinstance(source, Tuned | Schedule):
                raise TypeError(f"hyperparameter {name} needs a source such as Tuned or Constant, not {source!r}")
        self.ranks = ALONE  # those that share a mini-batch
        self.names = tuple(sources)
        self.schedules = {name: source for name, source in sources.items() if not isinstance(source, Tuned)}
        tuned: dict[str, Tuned] = {}
        self.transforms: dict[str, Transform] = {}  # of those whose range does not imply theirs
        for name, source in sources.items():
            if isinstance(source, Tuned):
                if source.feed not in get_args(Feed):
                    raise UserError(f"{name} has the feed {source.feed!r}: give one of {', '.join(get_args(Feed))}")
                transform, ends = transforms.resolve(name, source.transform, source.range)
                tuned[name] = replace(source, range=ends)
                if transform is not None:
                    self.transforms[name] = transform
                    if source.feed == "squashed":
                        told = f"{name} has a transform of its own, which has no squashing"
                        raise UserError(f"{told}: feed it centred or unconstrained")
        self.sources: Mapping[str, Tuned | Schedule] = {**sources, **tuned}
        self.columns = {name: column for column, name in enumerate(tuned)}
        self.shared = frozenset(name for name, source in tuned.items() if not source.per_example)

        specs = tuple(tuned.values())
        low, high = _tensor([s.range[0] for s in specs]), _tensor([s.range[1] for s in specs])
        self.register_buffer("lowest", low.nextafter(high), persistent=False)
        self.register_buffer("highest", high.nextafter(low), persistent=False)
        self.register_buffer("bounded", low.isfinite() & high.isfinite(), persistent=False)
        self.register_buffer("unbounded", low.isinf() & high.isinf(), persistent=False)
        self.register_buffer("offset", _tensor([_affine(s.range)[0] for s in specs]), persistent=False)
        self.register_buffer("slope", _tensor([_affine(s.range)[1] for s in specs]), persistent=False)
        self.register_buffer("discrete", _mask(s.discrete for s in specs), persistent=False)
        self.register_buffer("per_example", _mask(s.per_example for s in specs), persistent=False)
        # Where each name's value stands in the tuned values followed by the scheduled ones.
        order = [*self.columns, *self.schedules]
        self.register_buffer("order", torch.tensor([order.index(n) for n in self.names], dtype=torch.long), False)
        # In double precision, to be logged as they were given.
        self.register_buffer(
            "scheduled_values", torch.zeros(len(self.schedules), dtype=torch.float64), persistent=False
        )
        self.scheduled: dict[str, float] = {}
        self.advance(0, 0)
        self.register_buffer("squashed", _mask(s.feed == "squashed" for s in specs), persistent=False)
        self.register_buffer("centred", _mask(s.feed == "centred" for s in specs), persistent=False)
        self.unconstrained = nn.Parameter(
            _tensor([_unconstrain(n, s, self.transforms.get(n)) for n, s in tuned.items()])
        )
        self.raw_scale = nn.Parameter(_tensor([_inverse_softplus(_nonnegative(n, s.scale)) for n, s in tuned.items()]))

    @property
    def num_tuned(self) -> int:
        """H, the width of the best response's input."""
        return len(self.columns)

    @property
    def changing(self) -> tuple[str, ...]:
        """The names of those that do not keep one value: tuned, perturbed or replayed."""
        return tuple(name for name in self.names if not isinstance(self.schedules.get(name), Constant))

    @property
    def scale(self) -> Tensor:
        """(H,) standard deviations of the perturbation."""
        return F.softplus(self.raw_scale)

    def advance(self, step: int, epoch: int) -> None:
        """Go on to weight step `step`, in pass `epoch`, both from 0: what is not tuned takes its schedule's value."""
        scheduled = {name: schedule.at(step, epoch) for name, schedule in self.schedules.items()}
        if scheduled != self.scheduled:
            self.scheduled = scheduled
            self.scheduled_values.copy_(torch.tensor([*scheduled.values()], dtype=torch.float64))

    def current(self) -> Draw:
        """The unperturbed hyperparameters, one row for all examples; `h` is differentiable in λ."""
        return self._draw(self.unconstrained[None], shared=frozenset(self.columns))

    def perturbed(self, batch_size: int, noise: Tensor | None = None, differentiable: bool = False) -> Draw:
        """λ + ε, ε ~ N(0, diag scale²), one row per example, or for each of this rank's.

        noise: (batch_size, H) standard normal numbers, drawn where not given; a shared hyperparameter takes row 0's.
        differentiable: let λ and the scales receive gradients (a hyperparameter step that tunes the scales).

        Raises ValueError for noise of another shape.
        """
        if noise is not None and noise.shape != (batch_size, self.num_tuned):
            raise ValueError(
                f"perturbed({batch_size}) takes noise ({batch_size}, {self.num_tuned}): found {tuple(noise.shape)}"
            )
        if noise is None:
            like = {"device": self.scale.device, "dtype": self.scale.dtype}
            noise = torch.randn(batch_size, self.num_tuned, generator=self.ranks.generator(self.scale.device), **like)
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            return self._draw(self.ranks.share(self.perturb(noise)), self.shared)

    def perturb(self, noise: Tensor) -> Tensor:
        """(B, H) standard normal noise -> (B, H) perturbed λ. Raises ValueError for another shape."""
        if noise.dim() != 2 or noise.shape[1] != self.num_tuned:
            raise ValueError(f"noise must be (B, {self.num_tuned}): found {tuple(noise.shape)}")
        return self.unconstrained + self.scale * torch.where(self.per_example, noise, noise[:1])

    def squash(self, unconstrained: Tensor) -> Tensor:
        """(…, H) λ through each range's own squashing: sigmoid, softplus, or none for (−∞, ∞).

        Raises ValueError for another shape, and so do `constrain` and `values`.
        """
        if unconstrained.shape[-1:] != (self.num_tuned,):
            raise ValueError(f"unconstrained values must be (…, {self.num_tuned}): found {tuple(unconstrained.shape)}")
        softplus = torch.where(self.unbounded, unconstrained, F.softplus(unconstrained))
        return torch.where(self.bounded, torch.sigmoid(unconstrained), softplus)

    def constrain(self, unconstrained: Tensor) -> Tensor:
        """(…, H) λ -> (…, H) values strictly inside their ranges, before a discrete one is rounded down."""
        values = self.offset + self.slope * self.squash(unconstrained)
        if self.transforms:
            columns = list(values.unbind(-1))
            for name, transform in self.transforms.items():
                column = self.columns[name]
                columns[column] = transform.forward(unconstrained[..., column])
            values = torch.stack(columns, -1)
        # Far out, rounding reaches the ends, or passes them; the ranges are open.
        return values.clamp(self.lowest, self.highest)

    def values(self, unconstrained: Tensor) -> Tensor:
        """(…, H) λ -> (…, H) values as the model uses them: inside their ranges, discrete ones rounded down."""
        values = self.constrain(unconstrained)
        return torch.where(self.discrete, values.floor(), values)

    def entropy(self) -> Tensor:
        """Entropy of the perturbation in nats, Σ log(scale·√(2πe))."""
        return (self.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()

    @property
    def log_names(self) -> tuple[str, ...]:
        """What `log_values` holds: every hyperparameter in the order given, then the tuned ones' scales."""
        return (*self.names, *(f"{name}_scale" for name in self.columns))

    @torch.no_grad()
    def log_values(self) -> Tensor:
        """(len(log_names),) the current values, discrete ones not rounded down, and scales."""
        values = torch.cat([self.constrain(self.unconstrained), self.scheduled_values])
        return torch.cat([values[self.order], self.scale])

    def extra_repr(self) -> str:
        """A line for each: its current value, range and scale, or its schedule."""
        return "\n".join(f"{name}={self._described(name)}" for name in self.names)

    def _described(self, name: str) -> str:
        if name in self.schedules:
            return str(self.schedules[name])
        spec, scale = self.sources[name], self.scale[self.columns[name]]
        low, high = spec.range
        words = [f"{_shown(self.current()[name])} in ({low:g}, {high:g}), scale={_shown(scale)}"]
        words += ["discrete"] * spec.discrete + ["shared"] * (not spec.per_example)
        words += [spec.feed] * (spec.feed != "centred")
        if name in self.transforms:
            words.append(spec.transform if isinstance(spec.transform, str) else "a transform of its own")
        return ", ".join(words)

    def _draw(self, unconstrained: Tensor, shared: frozenset[str]) -> Draw:
        h = torch.where(self.squashed, self.squash(unconstrained), unconstrained)
        h = h - torch.where(self.centred, self.unconstrained.detach(), 0)
        values = self.values(unconstrained.detach())
        return Draw(h, values, self.columns, shared, self.scheduled, self.ranks.generator(h.device))


def neighbourhood(
    values: Sequence[float], scales: Sequence[float], range: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """The values one scale of the perturbation away from tuned `values`, on either side, inside the range.

    Raises UserError for a value that is not strictly inside its range.
    """
    unconstrained = torch.tensor([_unconstrain("a value", Tuned(value, range)) for value in values])
    one = Hyperparameters(value=Tuned(values[0], range))
    sides = (one.constrain((unconstrained + side * torch.tensor(scales))[:, None])[:, 0] for side in (-1, 1))
    below, above = (side.tolist() for side in sides)
    return below, above


def _shown(value: float | Tensor) -> str:
    """A value in short; for several, the smallest and the largest."""
    if not isinstance(value, Tensor):
        return f"{value:.4g}"
    if value.is_meta or not value.numel():
        return str(tuple(value.shape))  # it has no numbers
    low, high = (f"{end.item():.4g}" for end in value.detach().aminmax())
    return low if low == high else f"{low} to {high}"


def _tensor(numbers) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.get_default_dtype())


def _mask(flags) -> Tensor:
    return torch.tensor(list(flags), dtype=torch.bool)


def _affine(bounds: tuple[float, float]) -> tuple[float, float]:
    """The (offset, slope) that carry squashed λ onto the range."""
    low, high = bounds
    if math.isfinite(low) and math.isfinite(high):
        return low, high - low
    if math.isfinite(low):
        return low, 1.0
    if math.isfinite(high):
        return high, -1.0
    return 0.0, 1.0


def _unconstrain(name: str, spec: Tuned, transform: Transform | None = None) -> float:
    """The inverse of the map, in double precision."""
    low, high = spec.range
    if not low < high:
        raise UserError(f"{name} has the range ({low:g}, {high:g}), which is empty: give the lower end first")
    value = spec.initial + 0.5 if spec.discrete else spec.initial
    if not low < value < high:
        raise UserError(
            f"{name} cannot be tuned from {spec.initial:g}: it must start strictly inside its range ({low:g}, {high:g})"
        )
    if transform is not None:
        start = transforms.unconstrain(name, transform, value)
        transforms.refuse_misfit(name, transform, spec.range, start, _nonnegative(name, spec.scale))
        return start
    if math.isfinite(low) and math.isfinite(high):
        return math.log(value - low) - math.log(high - value)
    if math.isfinite(low) or math.isfinite(high):
        return _inverse_softplus(value - low if math.isfinite(low) else high - value)
    return value


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value)) if value else -INF


def _nonnegative(name: str, scale: float) -> float:
    if not 0 <= scale < INF:
        raise UserError(f"{name} has perturbation scale {scale:g}: it must be 0 or more, and finite")
    return scale
