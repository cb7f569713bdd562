import pytest
from toys.images import mnist


@pytest.fixture(scope="session")
def batches(mnist_dir):
    """Real images in batches, the last of them smaller."""
    x, y = mnist(mnist_dir, 150)
    return list(zip(x.split(64), y.split(64), strict=True))
