"""Products of the training loss's Hessian with a direction: by double backward, or by differences of gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stn.errors import UserError
from stn.methods import Update

Gradients = Callable[[], list[Tensor]]  # of the training loss at the weights as they are now, zeros where it has none


class DoubleBackward:
    """Products by differentiating the gradient: the backward pass keeps its graph, and is gone through backward.

    update: whose gradients are computed that way while this is in use. several: whether more than one product of a step
    is asked for; after the last one the graph's memory is free. Where the network cannot be differentiated
    twice, gradients are computed as ever, and `failed` says why.
    """

    def __init__(self, update: Update, several: bool = False):
        self.update, self.several, self.failed, self.checked = update, several, "", False
        self.graphs: list[list[Tensor | None]] = []  # of each objective its gradients
        update.backward = self.backward

    def backward(self, objective: Tensor) -> None:
        """Leaves gradients in the parameters as `Tensor.backward` does."""
        trained = [parameter for parameter in self.update.parameters if parameter.requires_grad]
        try:
            gradients = torch.autograd.grad(objective, trained, create_graph=True, allow_unused=True)
            if not self.checked:
                _refuse_once_differentiable(gradients)
                self.checked = True
        except RuntimeError as error:
            self.fail(error)
            objective.backward()
            return
        self.graphs.append([*gradients])
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:  # a copy, as clipping changes it in place
                own = gradient.detach().clone()
                parameter.grad = own if parameter.grad is None else parameter.grad + own

    def __call__(self, direction: list[Tensor]) -> list[Tensor]:
        products = [torch.zeros_like(part) for part in direction]
        trained = [place for place, own in enumerate(self.update.parameters) if own.requires_grad]
        for gradients in self.graphs:
            pairs = [
                (gradient, direction[place])
                for place, gradient in zip(trained, gradients, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            if not pairs:  # the loss is linear
                continue
            inputs = [self.update.parameters[place] for place in trained]
            outputs, along = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, inputs, along, retain_graph=self.several, allow_unused=True)
            for place, part in zip(trained, found, strict=True):
                if part is not None:
                    products[place] += part
        return products

    def try_product(self, direction: list[Tensor]) -> list[Tensor] | None:
        """The product, or None where there is no second derivative, as may turn out now."""
        if self.failed:
            return None
        try:
            return self(direction)
        except RuntimeError as error:
            self.fail(error)
            return None

    def release(self) -> None:
        self.graphs = []

    def stop(self) -> None:
        """Compute gradients as ever from here on."""
        self.update.backward = Tensor.backward
        self.release()

    def fail(self, error: RuntimeError) -> None:
        """The network cannot be differentiated twice, for this reason. Raises the error where it is of another kind."""
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        self.failed = str(error).partition("\n")[0]
        self.stop()


def _refuse_once_differentiable(gradients: Sequence[Tensor | None]) -> None:
    """Raise RuntimeError where autograd would pass over an operation marked so, as it does not lead to the weights."""
    waiting = {gradient.grad_fn for gradient in gradients if gradient is not None and gradient.grad_fn is not None}
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("an operation of it is marked as once_differentiable")
        after = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= after
        waiting |= after


class CentralDifferences:
    """Products by the gradients at the weights moved a little either way along the direction.

    gradients: computes them anew, at the weights as they are, with the step's mini-batches, masks and noise. The two
    lie a tenth of the cube root of their precision, times the weights' norm, from where they are, which is about where
    rounding and the third derivative do equal harm. A rectifier's or a maximum's gradient jumps where its inputs change
    order: double backward leaves that out, and here it is seen, as noise. So differences are for smooth networks.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], gradients: Gradients):
        self.parameters, self.gradients = parameters, gradients
        self.checked = False

    @torch.no_grad()
    def __call__(self, direction: list[Tensor]) -> list[Tensor]:
        if not self.checked:
            self._refuse_other_noise()
        length = _norm(direction)
        if not length > 0:  # or not finite, which who asks sees
            return [part * length for part in direction]
        precision = torch.finfo(self.parameters[0].dtype).eps
        size = 0.1 * precision ** (1 / 3) * max(_norm(self.parameters).item(), 1e-3) / length
        before = [parameter.clone() for parameter in self.parameters]
        try:
            torch._foreach_add_(self.parameters, [part * size for part in direction])
            above = self._gradients()
            torch._foreach_copy_(self.parameters, before)
            torch._foreach_sub_(self.parameters, [part * size for part in direction])
            below = self._gradients()
        finally:
            torch._foreach_copy_(self.parameters, before)
        return [(high - low).div_(2 * size) for high, low in zip(above, below, strict=True)]

    def _gradients(self) -> list[Tensor]:
        with torch.enable_grad():
            return self.gradients()

    def _refuse_other_noise(self) -> None:
        """Raise UserError where the same gradients cannot be computed twice: their difference would be noise."""
        once, again = self._gradients(), self._gradients()
        difference = _norm([first - second for first, second in zip(once, again, strict=True)])
        if difference > 1e-4 * _norm(once):
            raise UserError(
                "the network draws random numbers of its own, so that gradients at two weights differ by noise: draw "
                "them from PyTorch's default generators"
            )
        self.checked = True


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return nn.utils.get_total_norm(tensors)
