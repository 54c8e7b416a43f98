"""`refersam info`: what a model's files say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from refersam import ReferSamModel
from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.inference.description import describe_model

Run = Callable[..., SimpleNamespace]


def test_the_bundled_model(run: Run) -> None:
    """As JSON, checked against the files and the loaded model; as a table."""
    found = run("info", "--json")
    assert (found.code, found.err) == (0, "")
    told = json.loads(found.out)
    assert (told["preset"], told["licence"]) == ("tiny", "apache-2.0")
    assert told["input_size"] == [256, 256]
    assert told["heads"] == {"no_target": True, "iou": True}
    assert not told["supports_clicks"]
    assert (told["left_out"], told["upsampling"]) == ([], "guided filter")
    assert told["file_bytes"] == (BUNDLED_CHECKPOINT / "model.safetensors").stat().st_size
    model = ReferSamModel.from_pretrained(BUNDLED_CHECKPOINT)

    def count(*parts: object) -> int:
        return sum(tensor.numel() for part in parts for tensor in part.state_dict().values())  # type: ignore[attr-defined]

    decoder = (model.sam.prompt_encoder, model.sam.mask_decoder, model.sam.object_score_head)
    assert told["parameters"] == {
        "text encoder": count(model.text_encoder),
        "image encoder": count(model.sam.vision_encoder),
        "interactor": count(model.interactor),
        "prompter": count(model.prompter),
        "decoder": count(*decoder),
        "total": count(model),
    }
    assert told["dtypes"] == {"float16": count(model)}
    table = run("info")
    assert table.code == 0
    for line in (
        "sizes of preset.*tiny",
        "BERT, 3 layers of 128",
        "256 x 256 px",
        "nothing matches.*yes",
        "apache-2.0",
    ):
        assert re.search(line, table.out), line


def test_a_folder_without_card_and_processor(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    """What is missing is reported as unknown; a model in several files is counted whole."""
    whole = describe_model(str(tiny_model_folder))
    assert (whole.licence, whole.input_size, whole.dtypes.keys()) == (None, (64, 64), {"float32"})
    ReferSamModel.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "parts", max_shard_size="4MB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    parts = describe_model(str(tmp_path / "parts"))
    assert (parts.parameters, parts.input_size, parts.max_text_tokens) == (whole.parameters, None, None)
    found = run("info", "parts")
    assert re.search("input.*unknown: no processor", found.out)
    (tmp_path / "parts" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    assert_refused(run("info", "parts"), "names other.safetensors, which is not in parts")


@pytest.mark.parametrize("name", ["bert_tiny", "clip_tiny"])
def test_an_authors_checkpoint(run: Run, parity_folder: Path, name: str) -> None:
    """Sizes from the weights themselves; it has no heads of this package's, and always answers with a mask."""
    found = run("info", parity_folder / name / "official_state_dict.safetensors", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["preset"] is None
    assert told["text_encoder"] == ("CLIP" if name == "clip_tiny" else "BERT")
    assert told["heads"] == {"no_target": False, "iou": False}
    assert not told["supports_clicks"]
    assert told["upsampling"] == "bilinear"
    assert all(count > 0 for count in told["parameters"].values())


def assert_refused(result: SimpleNamespace, told: str) -> None:
    """Code 1, one sentence."""
    assert (result.code, result.out, "Traceback" in result.err) == (1, "", False)
    assert len(result.err.strip().splitlines()) == 1
    assert re.search(told, result.err), result.err


def test_what_is_no_model(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Each in one sentence."""
    assert_refused(run("info", "nowhere"), "No such model: nowhere is neither a folder nor a Hub id")
    (tmp_path / "file.pth").write_bytes(b"x")
    assert_refused(run("info", "file.pth"), r"file\.pth is not a checkpoint that can be read safely")
    shutil.copytree(tiny_model_folder, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")
    assert_refused(run("info", "cut"), "is not a safetensors file that can be read")
    (tmp_path / "cut" / "model.safetensors").unlink()
    assert_refused(run("info", "cut"), "cut has no weights: model.safetensors is expected")
