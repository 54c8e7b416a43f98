"""Errors of other libraries are converted to one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from refersam.checkpoints.folders import load_model
from refersam.errors import CheckpointError, one_line

TOKENIZER = (
    "Couldn't instantiate the backend tokenizer from one of: \n(1) a `tokenizers` library serialization file, \n"
    "(2) a slow tokenizer instance to convert or \n(3) an equivalent slow tokenizer class."
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("It failed.\n"), "It failed"),
        (ValueError("Validation error for field 'x':\n    expected int,\tgot str"), "Validation error for field 'x': "
         "expected int, got str"),
        (KeyError("model"), "KeyError: 'model'"),
        (RuntimeError(""), "RuntimeError: "),
        (ValueError(TOKENIZER), "tokenizer.json is missing, or cannot be read"),
        (RuntimeError("use ignore_mismatched_sizes"), "some have another shape than its configuration says"),
    ],
)  # fmt: skip
def test_one_line(error: Exception, line: str) -> None:
    """The whole message on one line; advice about the other library's code is replaced."""
    assert one_line(error) == line


def test_one_line_is_short() -> None:
    """Truncated between words, with a mark."""
    line = one_line(ValueError("word " * 1000))
    assert len(line) <= 300
    assert line.startswith("word word")


@pytest.mark.parametrize("content", [None, '{"a": 1}', '{"a":', ""])
def test_a_model_without_tokenizer(tiny_model_folder: Path, tmp_path: Path, content: str | None) -> None:
    """Missing or damaged: the error names the file."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing, or cannot be read\.$"):
        load_model(str(folder))
