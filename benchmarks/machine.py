"""What a measurement was taken on, for the line above its table."""

import datetime
import os
import platform
from pathlib import Path

import torch


def describe() -> str:
    """Date, processor, threads, load and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores "
        f"({names[0] if names else platform.machine()}), torch {torch.__version__} with "
        f"{torch.get_num_threads()} thread, load {load} over 1, 5 and 15 minutes."
    )
