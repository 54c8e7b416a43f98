"""Evaluation distributed over the processes of torchrun or accelerate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Processes:
    """Index of this process (from 0), number of processes, and device of this process; None for any device."""

    index: int = 0
    count: int = 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that prints and writes."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share; the shares together hold each item once."""
        return items[self.index :: self.count]

    def gather(self, items: list[Item]) -> list[Item]:
        """Return the items of all processes, in every process."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[Item] = gather_object(items)
        return gathered


def join_processes(device: str | None) -> Processes:
    """Join the processes of torchrun or `accelerate launch`, if there are several; on CPUs they communicate by gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu)
    return Processes(state.process_index, state.num_processes, "cpu" if on_cpu else str(state.device))


def leave_processes() -> None:
    """Close the connections, if there are any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
