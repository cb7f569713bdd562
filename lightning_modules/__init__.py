"""Models and data to use with Lightning, or to copy: they need no change for pruning."""

from lightning_modules.cifar import CIFAR10DataModule as CIFAR10DataModule
from lightning_modules.classifier import Classifier as Classifier
from lightning_modules.classifier import OneCycle as OneCycle
from lightning_modules.image_folder import ImageFolderDataModule as ImageFolderDataModule
from lightning_modules.loader import ImageLoader as ImageLoader
from lightning_modules.mnist import MNISTDataModule as MNISTDataModule
from lightning_modules.networks import CNN as CNN
from lightning_modules.networks import MLP as MLP
from lightning_modules.networks import LeNet5 as LeNet5
from lightning_modules.resnet import ResNet20 as ResNet20
