"""What a measurement was taken on, for the line above its table; and one thread that is quiet."""

import datetime
import logging
import os
import platform
import warnings
from pathlib import Path

import torch


def one_quiet_thread() -> None:
    """Compute in one thread, and hear of Lightning's errors alone."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


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
