"""The callback with `EWN(batchnorm=True)`."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toys.fits import Net, fit, make_trainer

from ewnprune import (
    EWN,
    AlphaLearningRate,
    Finetune,
    LogNormPenalty,
    WeightNormPruning,
    attached_parametrizations,
)
from ewnprune.callback.refusals import refuse_what_cannot_work
from ewnprune.cli import main

LEVELS = (0, 0.5, 0.8)


def normed():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2)]
    return Net(nn.Sequential(*layers), lambda p: torch.optim.SGD(p, lr=0.05))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    def run(folder, epochs, ckpt_path=None):
        callback = WeightNormPruning(EWN(batchnorm=True), LEVELS)
        keep = ModelCheckpoint(tmp_path / folder)
        fit(
            tmp_path / folder, normed(), AlphaLearningRate(3), LogNormPenalty(1e-2), callback, keep,
            max_epochs=epochs, ckpt_path=ckpt_path,
        )  # fmt: skip
        return callback.curve, torch.load(keep.best_model_path, weights_only=True), keep

    curve, whole, _ = run("whole", 4)
    _, _, half = run("half", 2)
    again, resumed, _ = run("resumed", 4, half.best_model_path)
    assert again == curve
    assert whole["ewnprune"]["layers"] == {"net.1": "ewnprune.EWN"}
    for part in (lambda c: c["state_dict"], lambda c: c["ewnprune"]["originals"]):
        for key, value in part(whole).items():
            assert torch.equal(torch.as_tensor(part(resumed)[key]), torch.as_tensor(value)), key
    assert list(whole["state_dict"]) == list(normed().state_dict())  # plain keys


class Watch(pl.Callback):
    """The log-scales before and after each step, and their gradients."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (name,) = attached_parametrizations(pl_module)
        self.alpha = pl_module.get_parameter(f"{name}.parametrizations.weight.original0")
        self.before, self.grad = self.alpha.detach().clone(), self.alpha.grad.clone()

    def on_train_batch_end(self, *_):
        self.steps.append((self.before, self.grad, self.alpha.detach().clone()))


def test_penalty_and_rate_act_on_the_log_scales(tmp_path):
    plain, both = Watch(), Watch()
    fit(tmp_path / "0", normed(), plain, WeightNormPruning(EWN(batchnorm=True), LEVELS))
    penalty, rate = LogNormPenalty(0.25), AlphaLearningRate(3)
    fit(
        tmp_path / "1",
        normed(),
        penalty,
        rate,
        both,
        WeightNormPruning(EWN(batchnorm=True), LEVELS),
    )
    (_, grad, _), (before, pulled, after) = plain.steps[0], both.steps[0]
    torch.testing.assert_close(pulled, grad + 0.25)
    torch.testing.assert_close(after, before - 3 * 0.05 * pulled)


def test_finetuning_holds_scales_of_pruned_neurons_at_zero(tmp_path):
    model = normed()
    pruning = WeightNormPruning(EWN(batchnorm=True), LEVELS, finetune=Finetune(2, 0.5))
    fit(tmp_path, model, pruning)
    gone = model.net[0].weight.abs().sum(1) == 0
    assert gone.sum() == 5
    assert torch.equal(model.net[1].weight == 0, gone)
    assert not attached_parametrizations(model)


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weight_space=True with parametrization=EWN\(batchnorm"):
        WeightNormPruning(EWN(batchnorm=True), weight_space=True)
    callback = WeightNormPruning(EWN(batchnorm=True))
    trainer = make_trainer(tmp_path, callback, strategy="ddp", sync_batchnorm=True)
    with pytest.raises(ValueError, match=r"sync_batchnorm=True.*convert_sync_batchnorm"):
        refuse_what_cannot_work(callback, trainer, later=False)


def test_the_command_line_takes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scale_classes.py").write_text(
        "from torch import nn\nfrom toys import fits\n"
        "class Normed(fits.Net):\n    def __init__(self):\n"
        "        layers = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2)\n"
        "        super().__init__(nn.Sequential(*layers))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--model=scale_classes.Normed", "--data=toys.data.Points", "--trainer.accelerator=cpu"]
    words += ["--prune.parametrization=EWN", "--prune.parametrization.batchnorm=true"]
    words += ["--prune.sparsities=[0,0.5]", "--trainer.max_epochs=1"]
    words += ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]
    assert main(["fit", *words]) == 0, capsys.readouterr().err
    assert "chosen  net.0: Linear, 10 neurons, by the scale of net.1" in capsys.readouterr().out
