"""The command line. The only part of the package that prints."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings

from refersam.cli import (  # noqa: F401  (each adds its commands)
    bulk,
    convert,
    data,
    demo,
    evaluate,
    export,
    info,
    recipes,
    segment,
    serve,
    train,
    video,
)
from refersam.cli.app import app
from refersam.cli.console import err_console
from refersam.errors import ReferSamError


def main() -> None:
    """Entry point: errors meant for the user become one sentence and an exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    is_main = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one warns
    logging.basicConfig(level=logging.WARNING if is_main else logging.ERROR, format="%(levelname)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be in no encoding
    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata; what cannot be read is an error of ours
    try:
        app(prog_name="refersam")
    except ReferSamError as error:
        err_console.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        err_console.print(f"Error: {what}.", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
