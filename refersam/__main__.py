"""Entry point of the command line, also as `python -m refersam`, which torchrun can start."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; an interruption while it is still being imported ends it quietly, with exit code 130."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as of a job in the background
        from refersam.cli import main as run
    else:
        signal.signal(signal.SIGINT, _leave)
        from refersam.cli import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(130)  # an exception would be printed, or swallowed, by whatever is being imported


if __name__ == "__main__":
    main()
