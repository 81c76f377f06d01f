"""The ranks of a data parallel run: processes that train one network, each on its share of every mini-batch.

Rank r of N has the examples r, r + N, r + 2N, … of a mini-batch. The loss of its share counts by its part of the
targets, so that gradients, summed over ranks, are those of the whole mini-batch; weights, hyperparameters and scales
stay the same on all ranks. Random numbers that all examples share (orders, perturbations, the masks of DropConnect and
embeddings) come from generators in the same state on every rank, all others from PyTorch's own, which differ.

Processes are started by torchrun, and speak through torch.distributed: gradients by NCCL on GPUs and by Gloo on CPUs,
decisions by Gloo.
"""

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stn.errors import UserError, one_line

Value = TypeVar("Value")
START = "start the script by torchrun"
MEETING = timedelta(minutes=3)  # in which the ranks must have found one another
ENDED = ("onnection closed", "onnection reset", "onnection refused", "Broken pipe", "pair closure")  # in Gloo's errors


class LostRank(UserError):
    """Another rank has ended, or hangs, and with it what all ranks do together."""

    def __init__(self, why: str = "another rank has ended"):
        remedy = "continue from its last checkpoint, on any number of ranks, or start it again where it has none"
        super().__init__(f"{why}, and the run with it: {remedy}")


class Ranks:
    """This process among those of the run; by default the only one, for which nothing changes.

    rank: of this process, from 0; the first one has the run's folder and the screen. size: how many there are.
    local: of those on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, store: dist.Store | None = None):
        self.rank, self.size, self.local, self.store = rank, size, local, store
        self.generators: dict[str, torch.Generator] = {}

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, device: str) -> str:
        """The same, or this rank's own GPU where it is one. Raises UserError where there are too few."""
        if self.size == 1 or torch.device(device).type != "cuda":
            return device
        if self.local >= torch.cuda.device_count():
            there = f"{torch.cuda.device_count()} GPUs here, and rank {self.rank} is number {self.local + 1}"
            raise UserError(f"there are {there} of this machine: start as many ranks as GPUs, or train on the CPU")
        return f"cuda:{self.local}"

    # --- shares of a mini-batch ---

    def own(self, examples: int) -> int:
        """How many of so many examples are this rank's."""
        return len(range(self.rank, examples, self.size))

    def part(self, whole: Tensor, axis: int = 0) -> Tensor:
        """This rank's examples along an axis; none where there are fewer examples than ranks."""
        if self.size == 1:
            return whole
        return whole[(slice(None),) * axis + (slice(self.rank, None, self.size),)]

    def share(self, whole: Tensor, axis: int = 0) -> Tensor:
        """The same, but never empty: a rank without an example computes on the first one, which counts nothing."""
        return self.part(whole, axis) if self.own(whole.shape[axis]) else whole.narrow(axis, 0, 1)

    def whole(self, part: Tensor, examples: int, axis: int = 0) -> Tensor:
        """So many examples along an axis, of which every rank has its part."""
        if self.size == 1:
            return part
        padding = -(-examples // self.size) - part.shape[axis]
        if padding:
            shape = [*part.shape[:axis], padding, *part.shape[axis + 1 :]]
            part = torch.cat([part, part.new_zeros(shape)], axis)
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with noticing_losses():
            dist.all_gather(parts, part.contiguous())
        return torch.stack(parts, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, examples)

    # --- what ranks agree on ---

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, the same on all."""
        if self.size == 1:
            return numbers
        total = numbers.clone()
        with noticing_losses():
            dist.all_reduce(total)
        return total

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is set on any rank."""
        if self.size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int32)  # on the CPU: no rank waits for its GPU
        with noticing_losses():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in found.tolist())

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.any(False)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` returns, or the UserError that it raises, on the first rank; elsewhere it is not called."""
        if self.size == 1:
            return make()
        told: list[Any] = [None, None]  # the value, the error
        if self.first:
            try:
                told[0] = make()
            except UserError as error:
                told[1] = str(error)
        with noticing_losses():
            dist.broadcast_object_list(told, device=torch.device("cpu"))
        if told[1] is not None:
            raise UserError(told[1])
        return told[0]

    def of_all(self, value: Value) -> list[Value]:
        """Every rank's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with noticing_losses():
            dist.all_gather_object(values, value)
        return values

    def align(self, *modules: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers. Raises UserError where they have others."""
        if self.size == 1:
            return
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        kinds = self.of_all([(tensor.shape, tensor.dtype) for tensor in tensors])
        if any(kind != kinds[0] for kind in kinds):
            raise UserError("the networks of the ranks differ in their parameters or buffers: make the same on all")
        with noticing_losses(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()  # a view may repeat its storage's numbers, or leave some out
                dist.broadcast(whole, 0)
                if not torch.equal(whole, tensor):
                    tensor.copy_(whole)

    def tells_first(self, error: object) -> bool:
        """Whether this rank is to tell of an error: the first one that has it; of a lost rank, if no rank told why."""
        if self.store is None:
            return True
        with suppress(RuntimeError):  # whoever kept the store has ended: nobody else can tell
            if isinstance(error, LostRank):
                return self.store.add("ended", 1) == 1
            self.store.add("ended", 1)
            return self.store.add(f"told {error}", 1) == 1
        return True

    def warning_once(self) -> AbstractContextManager:
        """Within this context the first rank alone warns."""
        return nullcontext() if self.first else warnings.catch_warnings(action="ignore")

    # --- random numbers ---

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator | None:
        """Of the random numbers on this device that all examples share: None, PyTorch's own, where one rank is all."""
        return self.generators[torch.device(device).type] if self.size > 1 else None

    def part_random_numbers(self) -> None:
        """From now on PyTorch's generators differ between ranks; those of what is shared go on as the first rank's."""
        if self.size == 1:
            return
        self._share(self.from_first(random_states))
        self._reseed()

    @contextmanager
    def shared_random_numbers(self) -> Iterator[None]:
        """While this lasts, PyTorch's generator of the CPU is the one that is in the same state on all ranks."""
        if self.size == 1:
            yield
            return
        own, shared = torch.get_rng_state(), self.generators["cpu"]
        torch.set_rng_state(shared.get_state())
        try:
            yield
        finally:
            shared.set_state(torch.get_rng_state())
            torch.set_rng_state(own)

    def random_state(self) -> dict[str, Any]:
        """All ranks' generators, for a checkpoint: the first rank's, the others', and what is shared."""
        own, *others = self.of_all(random_states())
        if self.size == 1:
            return own
        return {**own, "others": others, "shared": {name: own.get_state() for name, own in self.generators.items()}}

    def set_random_state(self, state: Mapping[str, Any]) -> bool:
        """Go on with the random numbers of a checkpoint; False where it is of another number of ranks.

        Then what is shared goes on, and each rank's own begins anew. Raises KeyError for a state that lacks a part.
        """
        states = [{name: state[name] for name in ("random", "random_cuda")}, *state.get("others", ())]
        same = len(states) == self.size
        if same:
            set_random_states(states[self.rank])
        elif self.size == 1:
            set_random_states(_as_own(state["shared"]))
        if self.size > 1:
            self._share(_as_own(state["shared"]) if "shared" in state else states[0])
            if not same:
                self._reseed()
        return same

    def _share(self, states: Mapping[str, Any]) -> None:
        self.generators = {"cpu": torch.Generator()}
        self.generators["cpu"].set_state(states["random"])
        if torch.cuda.is_available():
            self.generators["cuda"] = torch.Generator(f"cuda:{self.local}")
            if states["random_cuda"]:
                self.generators["cuda"].set_state(states["random_cuda"][0])

    def _reseed(self) -> None:
        """PyTorch's generators, from what is shared and the rank; what is shared stays as it is."""
        from_shared = torch.Generator()
        from_shared.set_state(self.generators["cpu"].get_state())
        seed = torch.randint(2**62, (), generator=from_shared).item()
        torch.manual_seed(seed + self.rank)


ALONE = Ranks()


@cache
def ranks_here() -> Ranks:
    """The ranks that torchrun has started, by its environment variables; without them, this process alone.

    Raises UserError where they do not find one another.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    if dist.is_initialized():
        raise UserError("torch.distributed has been initialized already: leave that to this library")
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(f"WORLD_SIZE={size} says that ranks train together, and {missing[0]} is not set: {START}")
    # Its functions keep the process group that there is when it is imported, and with it Gloo's threads, which abort
    # processes that end; torch's optimizers import it.
    from torch.distributed.nn import functional  # noqa: F401

    try:
        rank, size, local = int(os.environ["RANK"]), int(size), int(os.environ.get("LOCAL_RANK", "0"))
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=MEETING))
        store.set_timeout(dist.default_pg_timeout)
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        if gpus and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        told = f"WORLD_SIZE={size} says that ranks train together, and they cannot ({one_line(error)})"
        raise UserError(f"{told}: {START}") from error
    atexit.register(_leave)
    return Ranks(rank, size, local, dist.PrefixStore("told", store))


def _leave() -> None:
    if dist.is_initialized():  # a script may have left by itself
        with suppress(RuntimeError):
            dist.destroy_process_group()


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Raise LostRank where another rank has ended, or has not answered in time."""
    try:
        yield
    except RuntimeError as error:
        if "timed out" in str(error).lower():
            raise LostRank("another rank has not answered in time") from error
        if isinstance(error, dist.DistError) or any(words in str(error) for words in ENDED):
            raise LostRank from error
        raise


def random_states() -> dict[str, Any]:
    """Those of PyTorch's generators, of the CPU and of each GPU."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random": torch.get_rng_state(), "random_cuda": gpus}


def set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["random"])
    for device, random in enumerate(states["random_cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(random, device)


def _as_own(shared: Mapping[str, Tensor]) -> dict[str, Any]:
    """The states of generators that ranks share, as those of PyTorch's own."""
    return {"random": shared["cpu"], "random_cuda": [shared["cuda"]] if "cuda" in shared else []}
