"""The convolutional network of the Δ-STN's experiments on FashionMNIST."""

from cnn.models.convnet import ConvNet


class SimpleCNN(ConvNet):
    """The simple network of Bae & Grosse 2020 for grey images: two pooled 5 x 5 convolutions, two linear layers."""

    SHAPE = (1, 28, 28)
    CHANNELS = (1, 16, 32)
    STRIDES = (1, 1)
    POOLED = (True, True)
    FULLY_CONNECTED = (32 * 7 * 7, 1568)
    KERNEL = 5
