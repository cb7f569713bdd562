"""What a run ran with and on, and how long."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from ewnprune.files import write_text

VERSIONS = "versions.json"


def write_versions(folder: Path, seconds: float) -> None:
    """Write ``versions.json``.

    Args:
        folder: the run's.
        seconds: how long its last attempt took, measuring included. Where the file is there, the
            run is measured again, by more scores, and they add up.
    """
    names = ("ewnprune", "torch", "pytorch-lightning", "torchvision", "scipy", "numpy")
    found = {name: version(name) for name in names}
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["threads"] = str(torch.get_num_threads())
    found["processor"] = _processor()
    found["cores"] = str(os.cpu_count())
    found["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    path = folder / VERSIONS
    if path.is_file():
        seconds += float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    found["seconds"] = f"{seconds:.1f}"
    write_text(path, json.dumps(found, indent=1) + "\n")


def _processor() -> str:
    """The processor's name, which Python does not know on Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
