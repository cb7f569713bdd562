import time

import pytest
import torch
from torch import nn

from ewnprune.model.latency import measure_latency


def test_a_known_time_is_measured():
    inputs = torch.zeros(3, 2)
    pauses = {"long": lambda x: time.sleep(0.02), "short": lambda x: time.sleep(0.004)}
    found = measure_latency(pauses, inputs, seconds=0.1)
    assert found["long"].milliseconds >= 20  # how much more is the machine's business
    assert 4 <= found["short"].milliseconds < found["long"].milliseconds
    assert (found["long"].batch_size, found["long"].device) == (3, "cpu")


def test_threads_are_those_that_torch_uses():
    before, seen = torch.get_num_threads(), []
    network = {"net": lambda x: seen.append(torch.get_num_threads())}
    torch.set_num_threads(before + 1)
    try:
        latency = measure_latency(network, torch.zeros(1, 2), seconds=0.01)["net"]
        assert set(seen) == {latency.threads} == {torch.get_num_threads()} == {before + 1}
    finally:
        torch.set_num_threads(before)


def test_nothing_of_the_network_changes():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    measure_latency({"net": net}, torch.randn(2, 4), seconds=0.01)
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("inputs", "seconds", "reason"),
    [(torch.zeros(1, 2), 0, "seconds=0"), ([], 1, "no batch"), (torch.tensor(1.0), 1, "no batch")],
)
def test_bad_input(inputs, seconds, reason):
    with pytest.raises(ValueError, match=reason):
        measure_latency({"net": torch.relu}, inputs, seconds=seconds)
