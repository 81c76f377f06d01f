"""The networks, one file for each architecture.

MODELS: the self-tuning ones, plain or self-tuning by the number of tuned hyperparameters: `model(images, draw)`.
PLAIN: ordinary networks, which respond to no hyperparameters: `model(images)`.
"""

from cnn.models.alexnet import AlexNet
from cnn.models.convnet import CLASSES
from cnn.models.densenet import DenseNet
from cnn.models.lenet import LeNet
from cnn.models.mlp import MLP
from cnn.models.perceptron import Perceptron
from cnn.models.resnet import ResNet
from cnn.models.simple_cnn import SimpleCNN
from cnn.models.small import SmallCNN
from cnn.models.vgg import VGG
from cnn.models.vgg16 import VGG16
from cnn.models.wide_resnet import WideResNet

__all__ = [
    "CLASSES",
    "MLP",
    "MODELS",
    "PLAIN",
    "VGG",
    "VGG16",
    "AlexNet",
    "DenseNet",
    "LeNet",
    "Perceptron",
    "ResNet",
    "SimpleCNN",
    "SmallCNN",
    "WideResNet",
]

MODELS = {"alexnet": AlexNet, "small": SmallCNN, "mlp": MLP, "simple_cnn": SimpleCNN, "vgg16": VGG16}
PLAIN = {
    "lenet": LeNet,
    "mlp": Perceptron,
    "vgg": VGG,
    "resnet": ResNet,
    "wide_resnet": WideResNet,
    "densenet": DenseNet,
}
