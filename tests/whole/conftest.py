"""Where commands are tried: in an empty folder, with the data that the machine has."""

import pytest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, mnist_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EWNPRUNE_DATA_DIR", str(mnist_dir))
