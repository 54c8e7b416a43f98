"""Description of a run's environment, for reproducing the run."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from refersam.version import __version__

_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "pillow", "pycocotools")


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Return time, command, versions, state of the source code, device and processes."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "refersam": __version__,
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "cuda": torch.version.cuda,
        "device": f"{device.type}: {device_name(device)}",
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Return the name of a CUDA device or of the processor, such as "AMD EPYC 7R13 Processor", or its architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # of Linux
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the folder's checkout, and whether it has changes; None if the folder is not tracked."""
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:  # installed inside another checkout
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
