"""Devices and dtypes."""

from __future__ import annotations

import logging

import torch

from refersam.errors import DeviceError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device, or the fastest available one for None and 'auto'.

    Raises:
        DeviceError: the device is unknown or not available.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    if device is None or device == "auto":
        return torch.device(next((name for name in ("cuda:0", "mps") if name in available), "cpu"))
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"Unknown device {device!r}: this machine has {', '.join(available)}.") from error
    full_name = f"cuda:{wanted.index or 0}" if wanted.type == "cuda" else wanted.type
    if full_name not in available:
        raise DeviceError(f"Device {str(device)!r} is not there: this machine has {', '.join(available)}.")
    return wanted


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the requested dtype.

    Raises:
        DeviceError: the dtype is unknown.
    """
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted is None or wanted not in DTYPES.values():
        raise DeviceError(f"Unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
    return wanted


def is_emulated(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device is a CPU without native instructions for a dtype (software emulation)."""
    if device.type != "cpu" or dtype == torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    has = {torch.bfloat16: operators._is_mkldnn_bf16_supported, torch.float16: operators._is_mkldnn_fp16_supported}
    return not has[dtype]()


def warn_if_emulated(device: torch.device, dtype: torch.dtype) -> None:
    """Log a warning if a dtype is emulated on the device, and therefore slow."""
    if is_emulated(device, dtype):
        name = str(dtype).removeprefix("torch.")
        logger.warning("This CPU has no instructions for %s, which is much slower here than float32.", name)
