"""Kill -9 at random moments: ``python -m benchmarks.faults``, some minutes on two cores.

A child process runs a command on tiny data and is killed somewhere between its start and its end.
Then every file with a final name must be whole, the next run must go on or start anew, and what it
finds must be, bit for bit, what a run that nobody disturbed finds. Prints one line per command.
The children are forked, so that only the first pays for the imports; the kills of ``compare`` hit
its worker processes as well. Every other fit has its temporary files on another file system
(``/dev/shm``), where a rename is a copy.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from torchvision import datasets

import ewnprune.callback.command  # noqa: F401  the imports that the children share
from benchmarks.killing import cut, whole
from ewnprune import Curve, read_curve
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.cli import main as command
from ewnprune.export.command import export  # noqa: F401
from lightning_modules import fetch as fetching
from lightning_modules.files import FILES, cache_dir, find, read

_TOY = """
import torch, pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset

class Toy(pl.LightningDataModule):
    def setup(self, stage=None):
        x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(x, (x[:, :3].sum(1) > 0).long())
    def train_dataloader(self): return DataLoader(self.data, 16)
    def val_dataloader(self): return DataLoader(self.data, 32)
    test_dataloader = val_dataloader
"""
_CONFIG = {
    "model": {
        "class_path": "lightning_modules.Classifier",
        "init_args": {
            "network": {
                "class_path": "lightning_modules.MLP",
                "init_args": {"in_features": 6, "hidden": [20], "num_classes": 2},
            },
            "num_classes": 2,
        },
    },
    "data": {"class_path": "faults_toy.Toy"},
    "prune": {"sparsities": [0, 0.5, 0.9]},
    "trainer": {"max_epochs": 5, "accelerator": "cpu"},
}
_QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
_FIT = ["fit", "--config", "../tiny.yaml", "--prune.every_n_epochs=1", *_QUIET]


def main(words: list[str] | None = None) -> int:
    """Kill, check, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["fit", "sweep", "export", "fetch", "compare"])
    for name, kills in (("fit", 40), ("sweep", 20), ("export", 20), ("fetch", 20), ("compare", 5)):
        parser.add_argument(f"--{name}", type=int, default=kills)
    options = parser.parse_args(words)
    rng = random.Random(options.seed)
    checks = {"fit": _fit, "sweep": _sweep, "export": _export, "fetch": _fetch, "compare": _compare}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "faults_toy.py").write_text(_TOY)
        (root / "tiny.yaml").write_text(json.dumps(_CONFIG))
        sys.path.insert(0, folder)
        here = str(Path(__file__).parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, here])
        for name in options.only:
            began = time.monotonic()
            killed, finished = checks[name](root, getattr(options, name), rng)
            print(
                f"{name}: {killed} killed, {finished} had ended before, all survived "
                f"({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    return 0


def _fit(root: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    seconds = whole(root / "fit", partial(command, _FIT))
    expected = read_curve(root / "fit/runs/version_0/sparsity_curve.csv")
    killed = 0
    for number in range(kills):
        folder = root / f"fit-{number}"
        elsewhere = Path("/dev/shm") if number % 2 and Path("/dev/shm").is_dir() else None
        killed += cut(folder, partial(command, _FIT), rng.uniform(0, seconds), elsewhere)
        good = []
        for path in sorted(folder.glob("runs/version_0/checkpoints/*.ckpt")):
            try:
                good.append((read_checkpoint(path)["global_step"], path))
            except (
                ValueError
            ):  # cut off while it was copied: refused, and never taken for a good one
                assert elsewhere is not None
        _check_curves(folder, expected)
        resume = ["--ckpt_path", str(max(good)[1].relative_to(folder))] if good else []
        whole(folder, partial(command, [*_FIT, *resume]))
        last = max(point.epoch or 0 for point in expected)
        if good and max(good)[1].name.startswith(f"epoch={last}"):
            continue  # it had ended but for the files: there was nothing left to train
        newest = max(folder.glob("runs/version_*"), key=lambda path: int(path.name[8:]))
        found = read_curve(newest / "sparsity_curve.csv")
        assert found.where(epoch=last) == expected.where(epoch=last), f"kill {number} of fit"
        shutil.rmtree(folder)
    return killed, kills - killed


def _check_curves(folder: Path, expected: Curve) -> None:
    for path in [*folder.rglob("sparsity_curve*.csv"), *folder.rglob("sparsity_curve*.json")]:
        points = read_curve(path).points
        assert points == expected.points[: len(points)], path


def _sweep(root: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    whole(root / "trained", partial(command, _FIT))
    run = root / "trained/runs/version_0"
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    words = ["sweep", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint), *_QUIET]
    words += ["--split=test", "--trainer.logger.save_dir=."]
    seconds = whole(root / "sweep", partial(command, words))
    expected = read_curve(root / "sweep/runs/version_0/sparsity_curve_test.csv")
    killed = 0
    for number in range(kills):
        folder = root / f"sweep-{number}"
        killed += cut(folder, partial(command, words), rng.uniform(0, seconds))
        _check_curves(folder, expected)
        whole(folder, partial(command, words))
        newest = max(folder.glob("runs/version_*"), key=lambda path: int(path.name[8:]))
        assert read_curve(newest / "sparsity_curve_test.csv") == expected
    return killed, kills - killed


def _export(root: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    whole(root / "exported", partial(command, _FIT))
    run = root / "exported/runs/version_0"
    words = ["export", str(run), "--sparsity=0.5", "--output=small"]
    seconds = whole(root / "export", partial(command, words))
    expected = torch.load(root / "export/small/model.pt", weights_only=True)
    killed = 0
    for number in range(kills):
        folder = root / f"export-{number}"
        killed += cut(folder, partial(command, words), rng.uniform(0, seconds))
        if not (folder / "small").exists():
            whole(folder, partial(command, words))
        card = json.loads((folder / "small/card.json").read_text())
        assert card["pruning"]["sparsity"] == 0.5
        found = torch.load(folder / "small/model.pt", weights_only=True)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    return killed, kills - killed


class _Slowly(SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile):  # type: ignore[no-untyped-def]
        with contextlib.suppress(ConnectionError):
            while block := source.read(1 << 20):
                outputfile.write(block)
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slowly, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def _fetch(root: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    """The download of MNIST, from a server on this machine."""
    fetching.fetch(cache_dir(), "MNIST", replace=True)
    source = find(cache_dir(), "MNIST")
    assert source is not None
    served = root / "served"
    served.mkdir()
    resources = []
    for file in FILES:
        packed = gzip.compress((source / file).read_bytes(), compresslevel=1)
        (served / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", hashlib.md5(packed).hexdigest()))
    datasets.MNIST.resources = resources
    killed = 0
    with _server(served) as address:
        datasets.MNIST.mirrors = [address]

        def get() -> None:
            fetching.fetch(Path("data"), "MNIST", replace=True)

        seconds = whole(root / "fetch", get)
        for number in range(kills):
            folder = root / f"fetch-{number}"
            killed += cut(folder, get, rng.uniform(0, seconds))
            if (raw := find(folder / "data", "MNIST")) is not None:
                for file in FILES:
                    read(raw, "MNIST", file)  # or CorruptFileError
            whole(folder, get)
            raw = find(folder / "data", "MNIST")
            assert raw is not None
            for file in FILES:
                assert (raw / file).read_bytes() == (source / file).read_bytes()
            left = [p.name for p in (folder / "data").iterdir() if p.name.startswith(".fetch-")]
            assert not left, left
            shutil.rmtree(folder)
    return killed, kills - killed


def _compare(root: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    """A study of two runs, killed with its workers, up to three times before it may end."""
    study = {"methods": "none,ewn", "seeds": 0, "fit": _CONFIG, "folder": "study"}
    (root / "study.yaml").write_text(json.dumps(study))
    words = ["compare", "--config", str(root / "study.yaml")]
    seconds = whole(root / "compare", partial(command, words))
    expected = read_curve(root / "compare/study/points.csv")
    killed = number = 0
    while number < kills:
        folder = root / f"compare-{number}"
        for _ in range(min(3, kills - number)):
            killed += cut(folder, partial(command, words), rng.uniform(0, 0.8 * seconds))
            number += 1
        whole(folder, partial(command, words))
        assert read_curve(folder / "study/points.csv") == expected
    return killed, kills - killed


if __name__ == "__main__":
    sys.exit(main())
