"""Flags of the training scripts, each declared once: by a field of a settings class or a table of hyperparameters."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from stn.errors import UserError
from stn.scripts.options import OneLineParser

# The flags' groups, in the order of the help.
WHAT_TO_TUNE, START, VALUES, BASELINE = "what to tune", "where to start", "regularization", "baseline"
MODEL, TRAINING, TUNING, MACHINE = "model", "training", "self-tuning", "data, device and logs"
TUNED_RATE, SEARCH = "tuning the learning rate", "search"
GROUPS = (SEARCH, WHAT_TO_TUNE, START, VALUES, BASELINE, MODEL, TRAINING, TUNING, TUNED_RATE, MACHINE)


@dataclass(frozen=True)
class Flag:
    """A flag of the command line.

    name: without its dashes. check: turns a word into the flag's value, or raises ArgumentTypeError; None for a switch.
    aliases: other spellings, with their dashes. metavar: what the help calls the value (default: what the check says).
    many: takes one value or more. optional: may stand without a value, which is then None. may_change: may differ when
    a run is resumed. lengthens: lets a finished run train on. switches: others, without dashes, that stand for one of
    its values: that value, and their help. added: older runs know nothing of it, and go on with its default.
    """

    name: str
    help: str
    check: Callable[[str], Any] | None = None
    default: Any = False
    aliases: tuple[str, ...] = ()
    group: str = MACHINE
    metavar: str | None = None
    many: bool = False
    optional: bool = False
    may_change: bool = False
    lengthens: bool = False
    switches: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    added: bool = False

    def add_to(self, group: Any, hyphens: bool = False) -> None:
        """Add the flag to a parser or to a group of one; a flag that is not given will not be in the result."""
        shown = f" (default: {self.default})" if self.check and self.default not in (None, "", []) else ""
        options: dict[str, Any] = {"dest": self.name, "default": argparse.SUPPRESS, "help": self.help + shown}
        if self.check is None:
            options["action"] = "store_true"
        else:
            metavar = self.metavar or getattr(self.check, "metavar", self.name.upper())
            options |= {"type": self.check, "metavar": metavar}
        if self.many:
            options["nargs"] = "+"
        if self.optional:
            options |= {"nargs": "?", "const": None}
        if self.switches:
            group = group.add_mutually_exclusive_group()
        group.add_argument(f"--{spelled(self.name, hyphens)}", *self.aliases, **options)
        for switch, (value, words) in self.switches.items():
            own = {"dest": self.name, "default": argparse.SUPPRESS, "help": words}
            group.add_argument(f"--{spelled(switch, hyphens)}", action="store_const", const=value, **own)

    def accepts(self, value: object) -> bool:
        """Whether the flag could have this value, which may come from a file."""
        if type(value) is type(self.default) and value == self.default:  # True == 1 and 40.0 == 40, too
            return True
        if self.check is None:
            return isinstance(value, bool)
        if isinstance(value, list | tuple) != self.many:
            return False
        try:
            return all(self.check(str(item)) == item for item in (value if self.many else [value]))
        except argparse.ArgumentTypeError:
            return False


def flag(default: Any, help: str, check: Callable[[str], Any] | None = None, *aliases: str, **options: Any) -> Any:
    """A field of a settings class that a flag of its name sets; `options` are others of `Flag`."""
    own = {"help": help, "check": check, "default": default, "aliases": aliases, **options}
    return field(default=tuple(default) if isinstance(default, list) else default, metadata={"flag": own})


def flags_of(settings: type, *without_groups: str, **changes: Mapping[str, Any]) -> list[Flag]:
    """The flags that a settings class declares; `changes`: by name, what a script has in another way."""
    declared = [Flag(own.name, **own.metadata["flag"]) for own in fields(settings) if "flag" in own.metadata]
    return [replace(own, **changes.get(own.name, {})) for own in declared if own.group not in without_groups]


def spelled(name: str, hyphens: bool) -> str:
    """A flag's name, with hyphens for underscores if so asked."""
    return name.replace("_", "-") if hyphens else name


def parse(
    parser: OneLineParser, flags: Iterable[Flag], argv: Sequence[str] | None, hyphens: bool = False
) -> dict[str, Any]:
    """The values of the flags that were given, by name.

    hyphens: the help shows the names with hyphens, and the flags may be given with hyphens or underscores.
    """
    groups: dict[str, Any] = {}
    for own in sorted(flags, key=lambda flag: GROUPS.index(flag.group)):
        if own.group not in groups:
            groups[own.group] = parser.add_argument_group(own.group)
        own.add_to(groups[own.group], hyphens)
    words = sys.argv[1:] if argv is None else argv
    return vars(parser.parse_args([hyphenated(word) for word in words] if hyphens else words))


def hyphenated(word: str) -> str:
    """A word of the command line, with hyphens in the name if it is a flag."""
    name, *value = word.split("=", 1)
    return "=".join([spelled(name, hyphens=True), *value]) if word.startswith("--") else word


def refuse_idle(given: Collection[str], idle: Mapping[str, str]) -> None:
    """Raise UserError for a flag that was given and has nothing to act on.

    idle: such flags, by name, with what would give them something.
    """
    for name in sorted(given & idle.keys()):
        raise UserError(f"--{name} has nothing to act on: {idle[name]}, or leave it out")
