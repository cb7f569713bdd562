"""Bad input for the public functions, and damaged files for the readers."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import ewnprune
from benchmarks.fuzz_cases import Cases
from ewnprune import EWN, SWN, Curve, CurvePoint
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.study.methods import find_methods, parse_methods, parse_seeds


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Functions(Cases):
    """Cases of the functions."""

    def functions(self) -> None:
        """One case of each function."""
        rng = self.rng
        options = self.options({"layers": None, "exclude": None})
        self.case("select_layers", lambda: self._select(options), options)
        kind = rng.choice([EWN(), SWN(), self.any()])
        self.case("reparametrize", lambda: self._attach(kind, options), (kind, options))
        levels = rng.choice([[0, 0.5], [rng.uniform(-0.2, 1.2)], self.any()])
        self.case("check_sparsities", lambda: self._levels(levels), levels)
        sweep = self.options(
            {
                "sparsities": (0, 0.5),
                "scores": ("norm",),
                "scope": rng.choice(("layer", "global")),
                "layers": None,
                "exclude": None,
                "seed": 0,
                "metric": None,
                "loss_fn": None,
            }
        )
        if callable(sweep["loss_fn"]):
            sweep["loss_fn"] = None  # what a function of the caller's raises is the caller's
        self.case("sparsity_curve", lambda: self._sweep(sweep), sweep)
        remove = self.options({"sparsity": 0.5, "score": "norm", "scope": "layer", "seed": 0})
        self.case("remove_neurons", lambda: self._remove(remove), remove)
        self.case("mask_neurons", lambda: self._mask(remove), remove)
        call = self.options(
            {
                "parametrization": None,
                "sparsities": (0, 0.5),
                "scores": ("norm",),
                "scope": "layer",
                "every_n_epochs": None,
                "loss_levels": (),
                "at_level": ("sweep",),
                "realize": "mask",
                "forward": None,
                "loss_fn": None,
                "finetune": None,
            }
        )
        self.case("WeightNormPruning", lambda: ewnprune.WeightNormPruning(**call), call)
        tune = self.options({"epochs": 1, "sparsity": 0.9, "score": None})
        self.case("Finetune", lambda: ewnprune.Finetune(**tune), tune)
        rate = self.options({"lr": 0.1, "weight_decay": 0.0})
        self.case("EWNSGD", lambda: self._optimizer(ewnprune.EWNSGD, rate), rate)
        self.case("SWNSGD", lambda: self._optimizer(ewnprune.SWNSGD, rate), rate)
        for name, function in {
            "parse_seeds": parse_seeds,
            "find_methods": partial(find_methods, own={}),
            "parse_methods": parse_methods,
        }.items():
            value = self.any()
            self.case(name, partial(function, value), value)
        self.case("read_curve", *self._damaged_curve())
        self.case("read_checkpoint", *self._damaged_checkpoint())

    def _select(self, options: dict[str, Any]) -> None:
        chosen = ewnprune.select_layers(_net(), **options).chosen
        assert chosen
        assert set(chosen) <= {"0", "2", "4"}

    def _attach(self, kind: Any, options: dict[str, Any]) -> None:
        net = _net()
        before, outputs = copy.deepcopy(net.state_dict()), net(X)
        try:
            ewnprune.reparametrize(net, kind, **options)
        except Exception:
            after = net.state_dict()
            assert all(torch.equal(after[key], value) for key, value in before.items()), "changed"
            raise
        torch.testing.assert_close(net(X), outputs, rtol=1e-4, atol=1e-5)
        ewnprune.fold(net)
        assert list(net.state_dict()) == list(before)

    def _levels(self, levels: Any) -> None:
        found = check_sparsities(levels)
        assert all(0 <= level < 1 for level in found)
        assert list(found) == sorted(found)

    def _sweep(self, options: dict[str, Any]) -> None:
        net = _net()
        before = copy.deepcopy(net.state_dict())
        try:
            curve = ewnprune.sparsity_curve(net, [(X, Y)], **options)
        finally:
            assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items()), "changed"
        assert len(curve)
        assert all(0 <= point.sparsity < 1 for point in curve)
        assert all(point.total == 8 for point in curve)

    def _remove(self, options: dict[str, Any]) -> None:
        small = ewnprune.remove_neurons(_net(), example_input=X, **options)
        assert small(X).shape == (8, 3)

    def _mask(self, options: dict[str, Any]) -> None:
        net = _net()
        ewnprune.mask_neurons(net, example_input=X, **options)
        assert net(X).shape == (8, 3)

    def _optimizer(self, kind: Any, options: dict[str, Any]) -> None:
        net = _net()
        optimizer = kind(ewnprune.neuron_param_groups(net), **options)
        net(X).square().sum().backward()
        optimizer.step()

    def _damage(self, content: bytes) -> bytes:
        rng, damaged = self.rng, bytearray(content)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(max(1, len(damaged)))
            match rng.choice(("cut", "flip", "insert", "repeat")):
                case "cut":
                    damaged = damaged[:place]
                case "flip" if damaged:
                    damaged[place] ^= 1 << rng.randrange(8)
                case "insert":
                    damaged[place:place] = rng.choice(
                        (b"nan", b'"', b",,", b"\x00", b"\n", b"1e999")
                    )
                case _:
                    damaged += damaged[place:]
        return bytes(damaged)

    def _damaged_curve(self) -> tuple[Callable[[], None], str]:
        path = self.folder / f"curve{self.rng.choice(('.csv', '.json'))}"
        point = CurvePoint(method="EWN", score="norm", sparsity=0.5, accuracy=0.75, seed=1)
        ewnprune.write_curve(Curve((point, point)), path)
        content = self._damage(path.read_bytes())
        path.write_bytes(content)

        def read() -> None:
            curve = ewnprune.read_curve(path)
            again = path.with_stem("again")
            ewnprune.write_curve(curve, again)
            assert repr(ewnprune.read_curve(again).points) == repr(curve.points)

        return read, repr(content)

    def _damaged_checkpoint(self) -> tuple[Callable[[], None], str]:
        path = self.folder / "damaged.ckpt"
        torch.save({"state_dict": {"w": torch.arange(6.0)}, "epoch": 3}, path)
        content = self._damage(path.read_bytes())
        path.write_bytes(content)

        def read() -> None:
            assert isinstance(read_checkpoint(path)["state_dict"], dict)

        return read, repr(content[:40])
