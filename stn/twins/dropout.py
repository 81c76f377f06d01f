"""Twins of dropout layers: their rate is a hyperparameter, which may differ from example to example."""

from torch import Tensor, nn

from stn.dropout import drop
from stn.twins.draws import Twin


class _Dropout(Twin):
    """Base class of dropout twins. least_dimensions: of their inputs."""

    least_dimensions = 1

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        rate = self.rate(self.p)
        if isinstance(rate, Tensor) and rate.dim():
            self.draw_for(input, self.least_dimensions)  # the batch is where it should be
        dropped = drop(input, rate, self.mask_shape(input), self.place.batch_axis)
        return input.copy_(dropped) if self.inplace else dropped

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the mask, which broadcasts to x's shape."""
        raise NotImplementedError


class Dropout(_Dropout, nn.Dropout):
    """Twin of `nn.Dropout`: inputs of any dimensions, one of them the batch."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)


class _ChannelDropout(_Dropout):
    """Base class of twins that drop whole channels of inputs (B, C, …)."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return *x.shape[:2], *[1] * (x.dim() - 2)


class Dropout1d(_ChannelDropout, nn.Dropout1d):
    """Twin of `nn.Dropout1d`: inputs (B, C, length)."""

    least_dimensions = 3


class Dropout2d(_ChannelDropout, nn.Dropout2d):
    """Twin of `nn.Dropout2d`: inputs (B, C, height, width)."""

    least_dimensions = 3  # of (B, C, length), nn.Dropout2d drops channels, too
