"""Operations, the identity to their values, that cannot be differentiated twice."""

import torch


class OnlyOnce(torch.autograd.Function):
    """Its backward pass refuses to be recorded."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        if torch.is_grad_enabled():
            raise RuntimeError("OnlyOnce cannot be differentiated twice: it is made so")
        return gradient.clone()


class Raises(torch.autograd.Function):
    """Its backward pass can be recorded, but not be differentiated."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return _NoDerivative.apply(gradient)


class _NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, __):
        raise RuntimeError("derivative is not implemented\nand more")
