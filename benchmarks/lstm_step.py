"""What a step of the self-tuning language model costs, beside the matrix products that it cannot do without.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import step_products
import timing
import torch
from reference import PlainModel, training_loss
from shapes import Shape
from step_products import Products
from timing import DTYPES, interleaved
from torch.profiler import ProfilerActivity, profile

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import EVALUATION_BATCH, EVALUATION_ROWS, LanguageModeling
from stn.bilevel import evaluate
from stn.datasets.text import Corpus
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import STN
from stn.schedules import Constant
from stn.scripts.options import positive_int

RATE = 0.05
CLIP = 0.25


PAPER = Shape()


def tuned_hyperparameters(count: int) -> Hyperparameters:
    """The language model's seven, the first `count` of them tuned, all from one value, as --tune_all does."""
    tuned = {
        name: Tuned(RATE, declared.range, per_example=declared.per_example)
        for name, declared in list(TABLE.items())[:count]
    }
    return Hyperparameters(**dict.fromkeys(TABLE, Constant(RATE)) | tuned)


class Subject:
    """A self-tuning model at work on a random text of Zipf's distribution; each call is one thing to be timed.

    delta: by the Δ-STN. checkpointed: with its activations computed again in the backward pass. hyper: in place of the
    seven. kind: of its task.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        delta: bool = False,
        checkpointed: bool = False,
        hyper: Hyperparameters | None = None,
        kind: type[LanguageModeling] = LanguageModeling,
    ):
        torch.manual_seed(0)
        frequencies = 1 / torch.arange(1, shape.types + 1)
        lengths = (shape.tokens * 8 + shape.batch, shape.tokens * 4 + shape.batch, 10 * EVALUATION_BATCH["test"])
        splits = [torch.multinomial(frequencies, length, replacement=True) for length in lengths]
        corpus = Corpus(*splits, tuple(map(str, range(shape.types))), "")
        self.hyper = hyper or tuned_hyperparameters(shape.tuned)
        sizes = shape.types, shape.width, shape.width, shape.layers, self.hyper.num_tuned
        self.model = AWDLSTM(*sizes, dtype, checkpoint_activations=checkpointed)
        self.task = kind(self.model, corpus, shape.batch, shape.steps)
        self.shape = shape
        self.method = (DeltaSTN if delta else STN)(self.model, self.hyper, lr=1.0, clip=CLIP)
        self.weight_step = partial(self.method.weight_step, self.task, self.hyper)
        self.hyper_step = partial(self.method.hyper_step, self.task, self.hyper)
        self.eval = partial(evaluate, self.task, self.hyper, "valid")
        self.eval_tokens = self.task.evaluation["valid"][1:].numel()

    def oracle_step(self) -> None:
        """The weight step by the obvious implementation, on the same weights."""
        _, tokens, targets, state = self.task.batch("train")
        state = state or [tuple(torch.zeros(2, 1, self.shape.batch, layer.hidden_size)) for layer in self.model.layers]
        self.model.train()
        loss, state = training_loss(self.model, tokens, targets, state, self.hyper.perturbed(self.shape.batch))
        self.task.streams["train"].carry(state)
        self.method.updates["weights"](loss)


class Plain:
    """The same architecture of PyTorch's own layers, without tuning; in bfloat16 by autocast."""

    def __init__(self, shape: Shape, dtype: torch.dtype):
        torch.manual_seed(0)
        self.model = PlainModel(shape.types, shape.width, shape.width, RATE)
        self.update = STN(self.model, Hyperparameters(), lr=1.0, clip=CLIP).updates["weights"]
        self.tokens, self.targets = torch.randint(shape.types, (2, shape.steps, shape.batch))
        self.autocast = partial(torch.autocast, "cpu", dtype, enabled=dtype != torch.float32)

    def step(self) -> None:
        with self.autocast():
            loss, _ = self.model(self.tokens, self.targets, [None, None])
        self.update(loss)


def measure(shape: Shape, dtype: torch.dtype, rounds: int) -> tuple[timing.Seconds, dict[str, float]]:
    """Seconds in each round of everything that the table compares, and medians of other units."""
    subject, plain, products = Subject(shape, dtype), Plain(shape, dtype), shape.products()
    delta = Subject(shape, dtype, delta=True)
    evaluated = step_products.evaluation(
        subject.eval_tokens, EVALUATION_ROWS, EVALUATION_BATCH["valid"], shape.width, shape.types
    )
    subjects = {
        "matmul_s": Products(products, dtype),
        "weight_step_s": subject.weight_step,
        "plain_lstm_step_s": plain.step,
        "hyper_step_s": subject.hyper_step,
        "eval_matmul_s": Products(evaluated, dtype),
        "eval_s": subject.eval,
        "delta_weight_step_s": delta.weight_step,
        "delta_hyper_step_s": delta.hyper_step,
    }
    if dtype == torch.float32:
        subjects["oracle_step_s"] = subject.oracle_step
    routines = step_products.by_routine([product for product in products if product.large], dtype)
    seconds = interleaved(subjects | routines, rounds)
    by_routine = {key: seconds.pop(key) for key in routines}
    best = step_products.best(by_routine)
    flops = sum(product.flops * product.weights for product in products)
    seconds["best_matmul_s"] = [flops / best[0].flops * time for time in by_routine[best]]
    steps = zip(seconds["weight_step_s"], seconds["hyper_step_s"], strict=True)
    seconds["tuned_steps_s"] = [2 * weight_step + hyper_step for weight_step, hyper_step in steps]
    seconds["fixed_steps_s"] = [2 * step for step in seconds["plain_lstm_step_s"]]
    return seconds, {
        "step_flops": flops,
        "best_rate_gflops": flops / statistics.median(seconds["best_matmul_s"]) / 1e9,
        "weight_step_over_best": statistics.median(timing.ratios(seconds, "weight_step_s", "best_matmul_s")),
        "train_tokens_per_s": shape.tokens / statistics.median(seconds["weight_step_s"]),
        "eval_tokens_per_s": subject.eval_tokens / statistics.median(seconds["eval_s"]),
    }


# What is compared with what, and the largest ratio to aim at in float32 and bfloat16.
RATIOS = {
    "weight step / its products": ("weight_step_s", "matmul_s", 1.25, 1.45),
    "weight step / products at the best rate": ("weight_step_s", "best_matmul_s", 1.3, 1.25),
    "hyperparameter step / weight step": ("hyper_step_s", "weight_step_s", 0.75, 0.75),
    "weight step / step-by-step autograd": ("weight_step_s", "oracle_step_s", 0.65, None),
    "weight step / plain nn.LSTM step": ("weight_step_s", "plain_lstm_step_s", 1.6, 1.6),
    "tuned run / fixed run of nn.LSTM": ("tuned_steps_s", "fixed_steps_s", 2.0, 2.0),
    "Δ-STN's weight step / STN's": ("delta_weight_step_s", "weight_step_s", 1.7, 1.7),
    "Δ-STN's hyperparameter step / STN's": ("delta_hyper_step_s", "hyper_step_s", 1.1, 1.1),
    "evaluation / its products": ("eval_s", "eval_matmul_s", 1.5, 2.0),
}


def profiled(step: Callable[[], None]) -> str:
    """A table of the operators that one step spends its time in, after one to warm up."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    return record.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40)


def main(argv: list[str] | None = None) -> None:
    parser = timing.parser(__file__, __doc__, rounds=7)
    add = parser.add_argument
    add(
        "--products",
        action="store_true",
        help="show the rate of each of a step's matrix products by all routines instead",
    )
    add("--profile", action="store_true", help="show where a weight step's time goes instead")
    add("--width", type=positive_int, default=PAPER.width, metavar="N", help="units (default: %(default)s)")
    timing.add_checkpointing(parser)
    args = parser.parse_args(argv)
    shape = replace(PAPER, width=args.width)
    timing.prepare(args.threads)
    if args.peak:
        subject = Subject(shape, DTYPES[args.peak], bool(args.delta), bool(args.checkpointed))
        timing.say_peak([subject.weight_step, subject.weight_step, subject.hyper_step] * 3 + [subject.eval])
        return
    print(
        f"2 x {shape.width} units, batch {shape.batch}, bptt {shape.steps}, {shape.types:,} types, "
        f"{shape.tuned} tuned; {timing.machine()}"
    )
    results, sizes = {}, {"threads": args.threads, "width": shape.width}
    for name in args.dtype:
        dtype = DTYPES[name]
        if args.profile:
            print(name, profiled(Subject(shape, dtype).weight_step), sep="\n")
        elif args.products:
            seconds = interleaved(step_products.by_routine(shape.products(), dtype), args.rounds)
            print(*step_products.table(name, seconds), sep="\n", flush=True)
        elif args.checkpoint_activations:
            lines, results[name] = timing.checkpointing(
                __file__, name, args.rounds, partial(Subject, shape, dtype), **sizes
            )
            print(*lines, sep="\n", flush=True)
        else:
            seconds, others = measure(shape, dtype, args.rounds)
            peaks = timing.peak_memories(__file__, name, **sizes)
            results[name] = timing.medians(seconds) | others | peaks
            print(
                *timing.table(name, seconds, RATIOS),
                *timing.number_lines(others),
                *timing.peak_lines(peaks, 1536 if name == "float32" and shape == PAPER else None),
                sep="\n",
                flush=True,
            )
    if args.json and results:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
