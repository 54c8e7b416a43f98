"""Every benchmark and tool can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
START = """
import importlib, pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
for path in sorted(folder.glob("*.py")):
    importlib.import_module(path.stem)
"""


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_every_script_finds_what_it_imports(folder: str) -> None:
    """No other test runs them, so that outdated names would not be noticed."""
    done = subprocess.run([sys.executable, "-c", START, ROOT / folder], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
