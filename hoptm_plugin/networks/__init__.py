"""Networks: one family a file, initialisation from explicit generators, what methods need, the flat-vector view."""

from hoptm_plugin.networks.alexnet import AlexNet
from hoptm_plugin.networks.convnet import ConvNet
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.initialise import create
from hoptm_plugin.networks.layers import Classifier, HasFeatures, features
from hoptm_plugin.networks.needs import network_problems
from hoptm_plugin.networks.resnet import ResNet18, ResNet18AP
from hoptm_plugin.networks.vgg import VGG11

__all__ = [
    "VGG11",
    "AlexNet",
    "Classifier",
    "ConvNet",
    "FlatNetwork",
    "HasFeatures",
    "ResNet18",
    "ResNet18AP",
    "create",
    "features",
    "network_problems",
]
