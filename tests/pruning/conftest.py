import pytest
from toys.images import mnist


@pytest.fixture(scope="session")
def images(mnist_dir):
    return mnist(mnist_dir, 200)[0]


@pytest.fixture(scope="session")
def labels(mnist_dir):
    return mnist(mnist_dir, 200)[1]
