import copy
import csv
import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import make_trainer

from ewnprune import EWN, SWN, AsymptoticRelations, reparametrize
from ewnprune.model.layers import neuron_rows
from ewnprune.training.relations import gradient_rows, relate, spread
from lightning_modules import Classifier

LAYERS = [
    nn.Linear(7, 5),
    nn.Conv2d(3, 5, (3, 2)),
    nn.ConvTranspose1d(4, 6, 3, groups=2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("kind", [EWN, SWN, lambda: EWN(dim=1)], ids=["EWN", "SWN", "dim=1"])
def test_gradient_of_the_weight_from_those_of_s_and_v(layer, kind):
    plain = copy.deepcopy(layer).double()
    attached = copy.deepcopy(plain)
    reparametrize(nn.Sequential(attached), kind(), layers="0")
    with torch.no_grad():  # ||v|| need not be 1, nor gamma positive
        originals = attached.parametrizations.weight
        originals.original1.mul_(1.7)
        if kind is SWN:
            originals.original0[..., :1] *= -1
        plain.weight.copy_(attached.weight)
    target = torch.randn_like(plain.weight)
    for model in (plain, attached):
        (model.weight - target).pow(4).sum().backward()
    torch.testing.assert_close(gradient_rows(attached), neuron_rows(plain, plain.weight.grad))
    torch.testing.assert_close(gradient_rows(plain), neuron_rows(plain, plain.weight.grad))


def test_relations_by_hand():
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    g = torch.tensor([[-6.0, -8.0], [3.0, 0.0], [0.0, 0.0]])
    found = relate(w, g)
    assert found.norm.tolist() == [5, 2, 1] and found.gradient.tolist() == [10, 3, 0]
    assert found.product.tolist() == [50, 6, 0]
    assert found.quotient.tolist() == [2, 1.5, 0]
    assert found.cosine.tolist() == pytest.approx([-1, 0, 0])
    assert spread(found.product, found.norm, at_least=0.4) == pytest.approx(50 / 6)
    assert spread(found.product, found.norm) == 1


def test_weights_that_have_diverged_have_no_spread():
    norm = torch.tensor([1.0, float("nan"), 2.0])
    assert math.isnan(spread(torch.ones(3), norm))


def test_a_zero_row_has_finite_relations():
    layer = nn.Linear(3, 2)
    layer.weight.data[0] = 0
    reparametrize(nn.Sequential(layer), SWN(), layers="0")
    layer(torch.randn(4, 3)).square().sum().backward()
    assert torch.isfinite(gradient_rows(layer)).all()


@pytest.mark.parametrize("attach", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_layers_under_others_parametrizations_are_refused(attach):
    layer = attach(nn.Linear(3, 2))
    layer(torch.randn(4, 3)).sum().backward()
    with pytest.raises(ValueError, match=r"a layer is under _(Weight|Spectral)Norm: leave it with"):
        gradient_rows(layer)


def test_a_run_that_goes_on_appends_and_another_has_a_file_of_its_own(tmp_path):
    callback = AsymptoticRelations()
    trainer = SimpleNamespace(log_dir=tmp_path, is_global_zero=True, fast_dev_run=False)

    def begin(resumed=None):
        callback.setup(trainer, None, "fit")
        if resumed is not None:
            callback.load_state_dict(resumed)
        callback.on_train_start(trainer, None)
        if callback._path is not None:
            callback._path.touch()
        return callback._path and callback._path.name, callback.state_dict()

    first, of_first = begin()
    second, of_second = begin()
    assert (first, second) == ("relations.csv", "relations_1.csv")
    assert begin(of_first)[0] == first
    assert begin(of_second)[0] == second
    assert begin()[0] == "relations_2.csv"
    trainer.fast_dev_run = True
    assert begin()[0] is None


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_callback_logs_spreads_and_every_neuron(tmp_path):
    pl.seed_everything(0, verbose=False)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    seen = []

    class Net(Classifier):
        def on_before_optimizer_step(self, optimizer):
            layer = self.network[0]
            seen.append((layer.weight.detach().clone(), gradient_rows(layer).clone()))

    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    network[0].weight.data[0] /= 10  # too short to count in the spreads and the mean
    net = Net(network, lambda p: torch.optim.SGD(p, lr=0.1), scheduler=None, num_classes=3)
    reparametrize(net, EWN())
    trainer = make_trainer(None, AsymptoticRelations(every_n_steps=3), logger=CSVLogger(tmp_path))
    trainer.fit(net, DataLoader(TensorDataset(x, y), batch_size=8))
    folder = tmp_path / "lightning_logs" / "version_0"
    with (folder / "relations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["step"], r["layer"], r["neuron"]) for r in rows[:5]] == [
        *(("0", "network.0", str(u)) for u in range(4)),
        ("3", "network.0", "0"),
    ]
    assert {r["step"] for r in rows} == {"0", "3", "6"}
    w, g = seen[3]
    for u, row in enumerate(rows[4:8]):
        assert float(row["product"]) == pytest.approx((w[u].norm() * g[u].norm()).item(), rel=1e-5)
        cosine = torch.cosine_similarity(w[u], g[u], dim=0).item()
        assert float(row["cosine"]) == pytest.approx(cosine, abs=1e-5)
    with (folder / "metrics.csv").open() as file:
        logged = [r for r in csv.DictReader(file) if r["relations/network.0/product_spread"]]
    assert len(logged) == 3
    found = relate(*seen[0])
    assert found.gradient.all()
    long = found.norm >= 0.5 * found.norm.max()
    expected = {
        "product_spread": found.product[long].max() / found.product[long].min(),
        "quotient_spread": found.quotient[long].max() / found.quotient[long].min(),
        "cosine": found.cosine[long].mean(),
    }
    for name, value in expected.items():
        assert float(logged[0][f"relations/network.0/{name}"]) == pytest.approx(float(value), 1e-5)


def test_bad_interval_is_named():
    with pytest.raises(ValueError, match=r"every_n_steps=0.*>= 1"):
        AsymptoticRelations(every_n_steps=0)
