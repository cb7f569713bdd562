"""Files of networks whose recurrent layers have lost hidden units."""

import pytest
import torch
from torch import nn
from toys.recurrent import READS, Words

from ewnprune import remove_neurons
from ewnprune.export.calling import Calling
from ewnprune.export.formats import find_format

# torch.export's own, of any recurrent layer
FLAT = "ignore:The tensor attributes .* were assigned during export"
not_in_2_10 = pytest.mark.skipif(
    torch.__version__.startswith("2.10."), reason="its torch.export has the LSTM's shapes wrong"
)


@pytest.mark.filterwarnings(FLAT)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, nn.LSTM) for name in ("state_dict", "safetensors")),
        pytest.param("onnx", nn.LSTM, marks=not_in_2_10),
        *((name, nn.GRU) for name in ("state_dict", "torch_export")),
    ],
)
def test_files_give_what_the_network_gives_whatever_the_number_of_samples(name, kind, tmp_path):
    torch.manual_seed(0)
    layer = kind(5, 8, num_layers=2, bidirectional=True, batch_first=True)
    network = Words(layer, 16, READS["both ways"]).eval()
    words = torch.randint(12, (4, 5))
    calling = Calling(remove_neurons(network, 0.5, words), words)
    assert calling.network.rnn.hidden_size == 4
    found = find_format(name)
    path = tmp_path / found.file
    found.write(calling, path)
    run = found.read(path, calling)
    for samples in (1, 3, 7):
        words = torch.randint(12, (samples, 5))
        with torch.no_grad():
            torch.testing.assert_close(run(words), calling.network(words))
