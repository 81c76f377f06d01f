"""AlexNet."""

from cnn.models.convnet import ConvNet


class AlexNet(ConvNet):
    """AlexNet for 32 x 32 images, as both papers trained it: five convolutions, three fully connected layers.

    MacKay et al. 2019 drop the inputs of the two hidden layers, Bae & Grosse 2020 their outputs.
    """

    CHANNELS = (3, 64, 192, 384, 256, 256)
    STRIDES = (2, 1, 1, 1, 1)
    POOLED = (True, True, False, False, True)
    FULLY_CONNECTED = (256 * 2 * 2, 4096, 4096)
