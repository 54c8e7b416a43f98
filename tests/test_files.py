"""Files that cannot be written: detected before long work, and named in the error."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch
from safetensors import SafetensorError

from refersam.checkpoints.folders import load_model
from refersam.export import onnx as export
from refersam.files import check_space, errors_named, replace_folder, write_atomically
from refersam.training.checkpoint import save_checkpoint

FULL = "No space left on device"


def test_space_is_checked_before_the_work(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the file, the required and the available space; the export does not start."""
    check_space(tmp_path / "new" / "file", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match="3 MB are needed, but 1 MB are free") as caught:
        check_space(tmp_path / "new" / "file", 3_000_000)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "new" / "file"))
    monkeypatch.setattr(export, "trace", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(OSError, match="MB are needed"):
        export.export_onnx(*load_model(str(tiny_model_folder)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(errno.ENOSPC, FULL, "/tmp/stand-in/part"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_errors_name_the_file(error: Exception) -> None:
    """Not the temporary file; for full-disk errors of all libraries."""
    with pytest.raises(OSError, match=FULL) as caught, errors_named(Path("model"), "/tmp/stand-in"):
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "model")


def test_other_errors_stay_as_they_are() -> None:
    """Errors about other files, and other kinds of errors."""
    for error in (OSError(errno.EACCES, "Permission denied", "other"), SafetensorError("broken"), ValueError("x")):
        with pytest.raises(type(error)) as caught, errors_named(Path("model")):
            raise error
        assert caught.value is error


def test_long_writers_name_their_file(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported model and a checkpoint; no incomplete file remains."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, FULL)

    def fill(_state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        fail()

    with pytest.raises(OSError, match=FULL) as caught:
        write_atomically(tmp_path / "a.json", lambda _file: fail())
    assert caught.value.filename == str(tmp_path / "a.json")
    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match=FULL) as caught:
        save_checkpoint(tmp_path / "checkpoints", 7, {}, keep=1)
    assert caught.value.filename == str(tmp_path / "checkpoints" / "step_0000007.pt")
    monkeypatch.setattr(export, "trace", lambda *_: SimpleNamespace(metadata_props={}))
    monkeypatch.setattr(export, "_save", fail)
    with pytest.raises(OSError, match=FULL) as caught:
        export.export_onnx(*load_model(str(tiny_model_folder)), tmp_path / "model.onnx")
    assert caught.value.filename == str(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints"]


def test_replace_folder(tmp_path: Path) -> None:
    """The new one takes the old one's place, and nothing is left beside it."""
    for name in ("final", "temporary"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text("x")
    replace_folder(tmp_path / "temporary", tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["temporary.txt"]
