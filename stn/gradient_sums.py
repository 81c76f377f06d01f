"""The sum of gradients over the ranks of a data parallel run, in buckets."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stn.ranks import Ranks, noticing_losses

BUCKET_BYTES = 25 * 2**20  # summed at once: large enough that the latency does not count


class GradientSum:
    """Sums the gradients of some parameters over ranks; the same sum on all of them.

    overlap: begin with a bucket as soon as the backward pass has completed it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, overlap: bool = True):
        self.ranks, self.overlap = ranks, overlap
        self.buckets = bucketed(parameters)
        self.ready: set[nn.Parameter] = set()  # whose gradients are complete
        self.begun: list[tuple[list[Tensor], Tensor, dist.Work]] = []  # gradients, their sum, when it is done
        self.expecting = False
        for parameter in (parameter for bucket in self.buckets for parameter in bucket):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._completed)

    def expect(self) -> None:
        """The next backward pass is the last one before `finish`."""
        self.expecting = self.overlap

    def finish(self) -> None:
        """Have every parameter's gradient be the sum over ranks."""
        for bucket in self.buckets[len(self.begun) :]:
            self._begin(bucket)
        for gradients, total, work in self.begun:
            with noticing_losses():
                work.wait()
            if gradients and total is not gradients[0]:
                parts = total.split([gradient.numel() for gradient in gradients])
                torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
        self.begun, self.expecting = [], False
        self.ready.clear()

    def _completed(self, parameter: nn.Parameter) -> None:
        if not self.expecting:
            return
        self.ready.add(parameter)
        # One bucket after another, so that all ranks sum the same ones.
        while len(self.begun) < len(self.buckets) and self._is_complete(self.buckets[len(self.begun)]):
            self._begin(self.buckets[len(self.begun)])

    def _is_complete(self, bucket: list[nn.Parameter]) -> bool:
        return all(parameter in self.ready or not parameter.requires_grad for parameter in bucket)

    def _begin(self, bucket: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        if not gradients:
            self.begun.append(([], torch.empty(0), _Nothing()))
            return
        alone = len(gradients) == 1 and gradients[0].is_contiguous()
        total = gradients[0] if alone else torch.cat([gradient.flatten() for gradient in gradients])
        with noticing_losses():
            work = dist.all_reduce(total, async_op=True)
        self.begun.append((gradients, total, work))


class _Nothing:
    """The work of a bucket without gradients."""

    def wait(self) -> None: ...


def bucketed(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in buckets of one type and device, in about the order in which a backward pass completes them."""
    buckets: dict[tuple, list[list[nn.Parameter]]] = {}
    for parameter in reversed([*parameters]):
        kind = buckets.setdefault((parameter.dtype, parameter.device), [[]])
        if sum(map(_bytes, kind[-1])) + _bytes(parameter) > BUCKET_BYTES and kind[-1]:
            kind.append([])
        kind[-1].append(parameter)
    return [bucket for kind in buckets.values() for bucket in kind]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
