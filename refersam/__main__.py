"""Entry point of the command line; `python -m refersam` also works with torchrun."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; SIGINT during the import exits silently with code 130."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # SIGINT is ignored, as in a background job
        from refersam.cli import main as run
    else:
        signal.signal(signal.SIGINT, _leave)
        from refersam.cli import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(130)  # an exception could be printed or swallowed during the import


if __name__ == "__main__":
    main()
