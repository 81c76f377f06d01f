"""--find_hyper_lr: short probes of a run, which show what step size its learning rate may be tuned with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stn.errors import UserError
from stn.hypergradients.search import Probe, find_hyper_lr, recommended
from stn.kernels.memory import explaining_out_of_memory
from stn.scripts.course import OUT_OF_MEMORY, build, unlogged
from stn.scripts.flags import refuse_idle
from stn.scripts.output import say
from stn.scripts.records import read_config
from stn.scripts.script import PROBE_STEPS, Script

HEAD = f"{'step size':>12}  {'learning rate':>14}  {'validation loss':>15}"


def search(script: Script, given: Mapping[str, Any]) -> int:
    """Probe the run that these flags describe, print the table and the recommendation; the exit status."""
    refuse_idle(given.keys(), dict.fromkeys(("resume", "test", "overwrite"), "leave out --find_hyper_lr"))
    flags = script.settings.STEP_FLAGS
    fixed = flags["hyper_lr"] in given
    option = "alpha" if fixed else "hyper_lr"
    config, checksum = read_config(script, given)
    if not script.settings.tunes_rate({**script.defaults(), **config, **given}):
        raise UserError("--find_hyper_lr has nothing to act on: have the learning rate tuned by hd, rtho or marthe")
    if fixed and not script.settings.has_alpha({**script.defaults(), **config, **given}):
        raise UserError(f"hd has no alpha to find for --{flags['hyper_lr']}: leave that out, or --find_hyper_lr")
    if fixed and given[flags["hyper_lr"]] == 0:
        raise UserError(f"--{flags['hyper_lr']} 0 stays 0 whatever alpha is: give a value above 0, or leave it out")
    values, description, _ = script.prepare(given, {**config, flags["hyper_lr"]: 1.0}, checksum)
    settings, sources = script.make(values), script.sources(values)
    with explaining_out_of_memory(OUT_OF_MEMORY):
        _, hyper, task = build(settings, sources)
        trainer = unlogged(settings, task, hyper)
        steps = given["find_hyper_lr"] or PROBE_STEPS
        say(f"{description}\nprobes of {steps} weight steps, each from the same start\n{HEAD}")
        probes = find_hyper_lr(trainer, steps, option, lambda probe: say(line(probe)))
    say(advice(probes, script.spelled(flags[option])))
    return 0


def line(probe: Probe) -> str:
    """A probe's row of the table."""
    loss = f"{probe.loss:15.4f}" if probe.loss < math.inf else f"{'diverged':>15}"
    value = f"{probe.value:12.3g}" if probe.value else f"{'0 (constant)':>12}"
    return f"{value}  {probe.lr:14.4g}  {loss}"


def advice(probes: Sequence[Probe], flag: str) -> str:
    """The flag that is recommended."""
    best = recommended(probes)
    if best is None:
        return "all diverged, or their learning rates ran away: start at a lower learning rate"
    words = f"recommended: {flag} {best.value:.2g}"
    return words if best.loss < probes[0].loss else f"{words}, though none beats the constant learning rate so soon"
