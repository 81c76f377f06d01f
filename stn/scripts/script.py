"""What a training script declares: its hyperparameters, its flags, and what it makes of their values."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stn.errors import UserError
from stn.kernels import precision
from stn.schedules import Schedule
from stn.scripts.declared import Sources, Table, Values
from stn.scripts.flags import TUNED_RATE, Flag, parse, refuse_idle, spelled
from stn.scripts.options import OneLineParser, find, named, positive_int
from stn.scripts.settings import Settings

PROBE_STEPS = 100  # of --find_hyper_lr


@dataclass(frozen=True)
class Script:
    """A training script; those of one family differ in where the hyperparameters' values come from.

    table: the experiment's hyperparameters. settings: the family's. setting_flags: those of its flags that the script
    has. hyper_flags: its own, of hyperparameters and their sources. resolve: completes and checks the flags of a new
    run, from the values of all and the names of those that were given. sources: each hyperparameter's source, from
    these values. lr_schedule: what the learning rate follows, where they name a schedule of it. implied: what flags
    imply for others that neither the command line nor a config decides. constants: settings that the script has no
    flag for. hyphens: flags may be given with hyphens or underscores, and are shown with hyphens.
    """

    name: str
    description: str
    table: Table
    settings: type[Settings]
    setting_flags: Sequence[Flag]
    hyper_flags: Sequence[Flag]
    resolve: Callable[[dict[str, Any], set[str]], dict[str, Any]]
    sources: Callable[[Values], Sources]
    lr_schedule: Callable[[Values], Schedule | None] = lambda _: None
    implied: Callable[[Values], Values] = lambda _: {}
    constants: Mapping[str, Any] = field(default_factory=dict)
    hyphens: bool = False

    @cached_property
    def flags(self) -> dict[str, Flag]:
        """Those that args.yaml records, by name."""
        return {flag.name: flag for flag in (*self.hyper_flags, *self.setting_flags)}

    @cached_property
    def course_flags(self) -> list[Flag]:
        """Those that say what is to be done, and not how."""
        newest = f"(default: {self.settings.newest})"
        may_differ = ", ".join(self.spelled(flag.name) for flag in self.flags.values() if flag.may_change)
        resume = f"continue an unfinished run {newest}; only {may_differ} may differ"
        test = f"train nothing: evaluate the best model of the run that --resume names {newest}"
        config = "take the settings of an earlier run, by its folder or args.yaml, where no flag says otherwise"
        hyper_lr, alpha = (self.spelled(self.settings.STEP_FLAGS[name]) for name in ("hyper_lr", "alpha"))
        probing = (
            f"train nothing for good: probe values of {hyper_lr}, or, where that is given, of {alpha}, for STEPS "
            f"({PROBE_STEPS} where not given) weight steps each, and recommend one"
        )
        overwrite = Flag("overwrite", "redo the run of this configuration that is there, removing what it wrote")
        return [
            *([overwrite] if self.settings.overwrites else []),
            Flag("config", config, named, None, metavar="RUN"),
            Flag("resume", resume, named, None, metavar="FOLDER", optional=True),
            Flag("test", test),
            Flag("find_hyper_lr", probing, positive_int, None, metavar="STEPS", optional=True, group=TUNED_RATE),
        ]

    @cached_property
    def course(self) -> set[str]:
        """The names of these flags."""
        return {flag.name for flag in self.course_flags}

    @cached_property
    def changeable(self) -> set[str]:
        """The settings that may be others when a run is resumed; the data's checksum may not."""
        return {"device", "data", *(flag.name for flag in self.flags.values() if flag.may_change)}

    @property
    def path(self) -> str:
        """Where the script lies, from the repository's root."""
        return f"{self.settings.family}/{self.name}"

    def parse(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The values of the flags that were given, by name."""
        parser = OneLineParser(prog=self.name, description=self.description)
        return parse(parser, [*self.flags.values(), *self.course_flags], argv, self.hyphens)

    def spelled(self, name: str) -> str:
        """A flag as messages and the help show it, with its dashes."""
        return f"--{spelled(name, self.hyphens)}"

    def respelled(self, message: str) -> str:
        """A message with its flags as the help shows them."""
        return re.sub(r"--\w+", lambda flag: self.spelled(flag[0][2:]), message) if self.hyphens else message

    def defaults(self) -> dict[str, Any]:
        return {flag.name: flag.default for flag in (*self.flags.values(), *self.course_flags)}

    def make(self, values: Values) -> Settings:
        """The settings that these values stand for. Raises UserError as `sources` does for a schedule that changed."""
        names = [*(flag.name for flag in self.setting_flags), *self.settings.DERIVED]
        own = {name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in names}
        return self.settings(**self.constants, **own, lr_schedule=self.lr_schedule(values))

    def prepare(
        self, given: Mapping[str, Any], config: Values | None = None, data_checksum: str | None = None
    ) -> tuple[dict[str, Any], str, str]:
        """All values of a new run, and in words which data it is and why its type of number was chosen.

        config: the settings of an earlier run that it follows where no flag is given, if any. data_checksum: of the
        data that it must be, if any. Raises UserError where flags cannot go together, or what they ask for is not
        there.
        """
        config = config or {}
        self.refuse_idle_gpu(given)
        for name, value in given.items():
            try:
                str(value).encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"--{name} is not UTF-8, so that the run could not be read again: rename that"
                ) from None
        typed = given.keys() - self.course
        decided = {**config, **given}
        defaults = self.defaults()
        values = self.resolve({**defaults, **self.implied({**defaults, **decided}), **decided}, typed)
        data, description = self.settings.locate(values)
        values |= {"data": data, "device": None, "data_checksum": data_checksum}
        settings = self.make(values)
        _, why = precision.choose(values["dtype"], torch.device(settings.device))
        return self.chosen(values, settings), description, why

    def refuse_idle_gpu(self, given: Mapping[str, Any]) -> None:
        """Raise UserError where a GPU is chosen and none is to be used."""
        if self.settings.cpu_flag in given:
            refuse_idle(given.keys(), {"gpu": f"leave out --{self.settings.cpu_flag}"})

    def chosen(self, values: Values, settings: Settings) -> dict[str, Any]:
        """The values, with what the settings have chosen where these left it open."""
        return {**values, **{name: getattr(settings, name) for name in ("device", "dtype", "threads", "seed")}}

    def find_run(self, given: Mapping[str, Any], unfinished: bool) -> Path:
        """The run that --resume names, or else the newest, of those unfinished if so asked."""
        if given.get("resume"):
            return find(given["resume"], "the run")
        return self.settings.newest_run({**self.defaults(), **given}, unfinished)
