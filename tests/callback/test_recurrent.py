"""Networks with recurrent layers under a Trainer."""

import pytorch_lightning as pl
import torch
from toys.fits import Net, make_trainer
from toys.recurrent import READS, Words

from ewnprune import EWN, Finetune, WeightNormPruning, remove_neurons


class First(torch.nn.Module):
    """Whether the first word of a sentence is of the first half, told from the last state."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.LSTM(8, 16, num_layers=2, batch_first=True)
        self.net = Words(layer, 16, READS["last"], words=6)
        self.net.head = torch.nn.Sequential(
            torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2)
        )

    def forward(self, words):
        return self.net(words)


def _data(count=256):
    words = torch.randint(6, (count, 5), generator=torch.Generator().manual_seed(0))
    targets = (words[:, 0] < 3).long()
    dataset = torch.utils.data.TensorDataset(words, targets)
    return torch.utils.data.DataLoader(dataset, 32)


def _fit(folder, *callbacks, epochs):
    pl.seed_everything(0, verbose=False)
    model = Net(First(), lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    loader = _data()
    make_trainer(folder, *callbacks, max_epochs=epochs).fit(model, loader, loader)
    return model, loader


def test_a_fit_leaves_recurrent_weights_plain_and_prunes_hidden_units(tmp_path, capsys):
    names = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            names[:] = [name for name, _ in module.named_parameters()]

    pruning = WeightNormPruning(EWN(), (0, 0.5, 0.9))
    model, loader = _fit(tmp_path, pruning, Looks(), epochs=8)
    assert "net.net.rnn.weight_hh_l1" in names
    assert "net.net.head.0.parametrizations.weight.original0" in names
    assert "net.net.rnn: a recurrent layer" in capsys.readouterr().out
    curve = pruning.curve
    dense, half, few = curve.points
    assert dense.accuracy > 0.9 > few.accuracy
    assert [point.neurons.left for point in curve] == [2 * 16 + 12, 2 * 8 + 6, 2 * 2 + 1]
    small = remove_neurons(model, 0.5, next(iter(loader))[0])
    right = sum(int((small(x).argmax(1) == y).sum()) for x, y in loader)
    assert right == half.correct and small.net.net.rnn.hidden_size == 8


def test_finetuning_keeps_hidden_units_at_zero(tmp_path):
    pruning = WeightNormPruning(EWN(), (0, 0.5), finetune=Finetune(epochs=3, sparsity=0.5))
    model, loader = _fit(tmp_path, pruning, epochs=3)
    layer = model.net.net.rnn
    for end in ("l0", "l1"):
        silent = ~layer.get_parameter(f"weight_hh_{end}").view(4, 16, 16).any(-1).any(0)
        assert silent.sum() == 8
        assert not layer.get_parameter(f"weight_ih_{end}").view(4, 16, -1)[:, silent].any()
        assert not layer.get_parameter(f"bias_ih_{end}").view(4, 16)[:, silent].any()
        assert not layer.get_parameter(f"weight_hh_{end}")[:, silent].any()
    assert not model.net.net.head[0].weight[:, silent].any()
    # it is the network without them
    small = remove_neurons(model, 0.5, next(iter(loader))[0])
    x, y = loader.dataset.tensors
    torch.testing.assert_close(small(x), model(x))
    before, after = (point for point in pruning.curve if point.sparsity == 0.5)
    assert after.loss < before.loss and after.neurons == before.neurons
    assert after.correct == int((small(x).argmax(1) == y).sum())


def test_a_network_without_other_layers_logs_the_norms_of_its_hidden_units(tmp_path):
    pl.seed_everything(0, verbose=False)
    model, loader = Net(First()), _data(64)
    model.net.net.head = torch.nn.Linear(16, 2)
    trainer = make_trainer(tmp_path, WeightNormPruning(None, (0, 0.5)), max_epochs=1)
    trainer.fit(model, loader, loader)
    assert "norms/net.net.rnn/effective" in trainer.callback_metrics
