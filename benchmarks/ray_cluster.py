"""Does a study survive the loss of a worker and of a whole machine of its Ray cluster?

    python -m benchmarks.ray_cluster

Starts a real Ray cluster of three raylets on this machine (a head without CPUs and two machines of
one CPU), and a study of three runs on it. One run has its worker killed (SIGKILL) in its second
epoch, one its whole machine, raylet and all. Then the same study without deaths by the local
engine. Every point, norm and training loss must be the same bit for bit. MNIST, 784-32-10, 3
epochs of 20 batches.
"""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

FIT = {
    "model": {
        "class_path": "lightning_modules.Classifier",
        "init_args": {
            "network": {"class_path": "lightning_modules.MLP", "init_args": {"hidden": [32]}}
        },
    },
    "prune": {"sparsities": [0, 0.5, 0.9]},
    "trainer": {
        "max_epochs": 3,
        "limit_train_batches": 20,
        "limit_val_batches": 5,
        "limit_test_batches": 5,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
    },
}


class Loses(Callback):
    """Kill what this run depends on, once, in the second epoch.

    Args:
        what: its ``worker``, its ``machine``, or ``nothing``.
        once: a file that says that it was done.
    """

    def __init__(self, what: str, once: str) -> None:
        self.what, self.once = what, Path(once)

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
        if self.what == "nothing" or self.once.exists() or trainer.global_step != 30:
            return
        self.once.touch()
        worker = os.getppid()
        if self.what == "machine":
            os.kill(_parent(worker), signal.SIGKILL)  # its raylet
        os.kill(worker, signal.SIGKILL)
        time.sleep(600)  # ends with the worker


def _parent(process: int) -> int:
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True)
    return int(found.stdout)


def _compare(folder: Path, losses: dict[str, str], *words: str) -> float:
    """Run the study; gives back the seconds it took."""
    own = {}
    for name, what in losses.items():
        loses = {
            "class_path": "benchmarks.ray_cluster.Loses",
            "init_args": {"what": what, "once": str(folder.parent / f"lost-{name}")},
        }
        own[name] = {"fit": {"trainer": {"callbacks": [loses]}}}
    study = {"folder": str(folder), "methods": list(own), "seeds": 0, "fit": FIT, "own": own}
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(study))
    started = time.monotonic()
    command = [sys.executable, "-m", "ewnprune", "compare", "--config", str(path), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def _results(folder: Path) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for path in sorted(folder.glob("runs/*/*.csv")):
        with open(path, newline="") as file:
            found[f"{path.parent.name.partition('-')[0]}/{path.name}"] = list(csv.reader(file))
    with open(folder / "points.csv", newline="") as file:
        found["points.csv"] = list(csv.reader(file))
    return found


def main() -> int:
    """Print what was lost, and whether any result changed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # a machine that is gone is believed gone after two seconds
    os.environ |= {
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "2",
    }
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
            losses = {"whole": "nothing", "worker": "worker", "machine": "machine"}
            words = ("--engine", "ray", "--address", cluster.address)
            seconds = _compare(folder / "ray", losses, *words)
        finally:
            cluster.shutdown()
        _compare(folder / "local", dict.fromkeys(losses, "nothing"), "--workers", "2")
        lost = [n for n in losses if (folder / f"lost-{n}").exists()]
        resumed = sorted(p.parent.name.partition("-")[0] for p in folder.glob("ray/runs/*/fit_1"))
        ours, theirs = _results(folder / "ray"), _results(folder / "local")
        different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    print(f"lost: {', '.join(lost)}; gone on from a checkpoint: {', '.join(resumed)}")
    print(f"{len(ours)} files of results, {len(different)} of them different {different or ''}")
    print(f"{seconds:.0f} s on Ray")
    return int(bool(different) or lost != ["worker", "machine"] or resumed != sorted(lost))


if __name__ == "__main__":
    sys.exit(main())
