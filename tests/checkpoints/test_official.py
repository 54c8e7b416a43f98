"""Conversion of the authors' checkpoints: names, shapes, files of every kind, and malicious files."""

from __future__ import annotations

import argparse
import builtins
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from refersam import ReferSamConfig, ReferSamModel, ReferSamPredictor, ReferSamProcessor
from refersam.checkpoints.keys import AUTHORS_KEYS, SAM_KEYS, authors_state_dict, check_state_dict, rename_keys
from refersam.checkpoints.official import config_from_authors, convert_official_checkpoint, read_authors_config
from refersam.checkpoints.reading import read_checkpoint
from refersam.errors import CheckpointError, DataError, ReferSamError

OFFICIAL = {
    "vit_b_bert": ("base", "bert"),
    "vit_b_clip": ("base", "clip"),
    "vit_l_bert": ("large", "bert"),
    "vit_h_bert": ("huge", "bert"),
}


@pytest.fixture(scope="module")
def parity(load_parity: Callable) -> dict[str, SimpleNamespace]:
    """Both parity models; tests only read them."""
    return {name: load_parity(name) for name in ("bert_tiny", "clip_tiny")}


@pytest.fixture(scope="module")
def official_keys(parity_folder: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the authors' four models."""
    return json.loads((parity_folder / "official_keys.json").read_text())


# Names


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_and_shapes(official_keys: dict, name: str) -> None:
    """Every weight of the authors' model maps to one of ours of the same shape, and all of ours are set."""
    preset, text_encoder = OFFICIAL[name]
    assert official_keys.keys() == OFFICIAL.keys()
    theirs = {key: torch.empty(shape, device="meta") for key, shape in official_keys[name].items()}
    with torch.device("meta"):
        model = ReferSamModel(ReferSamConfig.from_preset(preset, text_encoder=text_encoder))
    converted = authors_state_dict(theirs)
    check_state_dict(model.state_dict(), converted, name)
    buffers = sum(key.endswith("position_ids") for key in theirs)
    assert len(converted) == len(theirs) - buffers  # no two names became one


def test_no_line_of_the_table_is_idle(official_keys: dict) -> None:
    """Each line of the table is the first match of some official name."""
    names = {name for keys in official_keys.values() for name in keys}
    whole = rename_keys(names, AUTHORS_KEYS)[0]
    for index, (theirs, _ours) in enumerate(AUTHORS_KEYS):
        without = (*AUTHORS_KEYS[:index], *AUTHORS_KEYS[index + 1 :])
        assert rename_keys(names, without)[0] != whole, f"{theirs} never matches"


def test_metas_table_is_the_authors_sam() -> None:
    """Meta's names and the authors' names of SAM map to the same weights."""
    assert [ours for _, ours in SAM_KEYS] == [ours for _, ours in AUTHORS_KEYS[: len(SAM_KEYS)]]
    assert len({theirs for theirs, _ in AUTHORS_KEYS}) == len(AUTHORS_KEYS)


def test_rename_keys_by_hand() -> None:
    """Placeholders are substituted, dots are literal, and unmatched names are reported."""
    table = (("a.{i}.norm{j}.{p}", "b.{j}.{i}.{p}"), ("a.{rest}", "c.{rest}"))
    renamed, unknown = rename_keys(["a.3.norm12.bias", "a.3.norm12.scale", "axnorm", "z.a.x"], table)
    assert renamed == {"a.3.norm12.bias": "b.12.3.bias", "a.3.norm12.scale": "c.3.norm12.scale"}
    assert unknown == ["axnorm", "z.a.x"]


def test_strict_both_ways(parity: dict) -> None:
    """Missing, unexpected and misshapen weights are named in one error."""
    expected = parity["bert_tiny"].model.state_dict()
    given = dict(expected)
    check_state_dict(expected, given, "x")
    del given["prompter.sparse_tokens"]
    given["prompter.more"] = torch.zeros(1)
    given["prompter.mask_scaling.bias"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as raised:
        check_state_dict(expected, given, "the file")
    message = str(raised.value)
    assert message.startswith("the file does not fit this configuration: ")
    assert "1 missing (prompter.sparse_tokens)" in message
    assert "1 unexpected (prompter.more)" in message
    assert "1 of another shape (prompter.mask_scaling.bias: (2,) where (1,) is expected)" in message


def test_long_lists_are_cut() -> None:
    """At most five names are listed."""
    with pytest.raises(CheckpointError, match=r"7 missing \(a0, a1, a2, a3, a4 and 2 more\)"):
        check_state_dict({f"a{i}": torch.zeros(1) for i in range(7)}, {}, "x")


def test_unknown_official_names(parity: dict) -> None:
    """Unknown names are reported, not ignored."""
    with pytest.raises(CheckpointError, match=r"1 of \d+ names are not those of the authors' ReferSAM: backbone\.x\."):
        authors_state_dict({**parity["bert_tiny"].weights, "backbone.x": torch.zeros(1)})


# Files


def as_training_checkpoint(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return a checkpoint in the format of the authors' training script."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "model": OrderedDict(weights),
        "optimizer": optimizer.state_dict(),
        "epoch": 49,
        "args": argparse.Namespace(lr=1e-4, output=Path("out"), nested=argparse.Namespace(amp=True)),
        "lr_scheduler": {"base_lrs": [1e-4], "lr_lambdas": [None]},
        "scaler": {"scale": 65536.0},
    }


def with_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the key prefix of distributed training."""
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def with_position_ids(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a buffer of older text encoders."""
    return {**weights, "text_encoder.embeddings.position_ids": torch.arange(40)[None]}


def other_clip_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With `text_model.` added to names without it, or removed from names with it."""
    older, newer = "text_encoder.text_model.", "text_encoder."
    has_older = any(name.startswith(older) for name in weights)
    pair = (older, newer) if has_older else (newer, older)
    return {name.replace(*pair): tensor for name, tensor in weights.items()}


VARIANTS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any]]] = {
    "weights alone": ("bert_tiny", dict),
    "training checkpoint": ("bert_tiny", as_training_checkpoint),
    "state_dict": ("bert_tiny", lambda weights: {"state_dict": weights, "epoch": 3}),
    "module": ("bert_tiny", lambda weights: as_training_checkpoint(with_module(weights))),
    "position_ids": ("bert_tiny", with_position_ids),
    "clip": ("clip_tiny", as_training_checkpoint),
    "other clip names": ("clip_tiny", lambda weights: with_module(with_position_ids(other_clip_names(weights)))),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_every_kind(parity: dict, tmp_path: Path, variant: str, zipped: bool) -> None:
    """Files of old and new training scripts give exactly the weights."""
    name, pack = VARIANTS[variant]
    file = tmp_path / "checkpoint.pth"
    content = pack(parity[name].weights)
    if not zipped and isinstance(content, dict) and "args" in content:
        content["args"] = argparse.Namespace(lr=1e-4)
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    ours = authors_state_dict(read_checkpoint(file))
    expected = parity[name].model.state_dict()
    check_state_dict(expected, ours, "x")
    assert all(torch.equal(ours[key], tensor) for key, tensor in expected.items())


def test_safetensors(parity: dict, parity_folder: Path) -> None:
    """Weights in safetensors are read, too."""
    weights = read_checkpoint(parity_folder / "bert_tiny" / "official_state_dict.safetensors")
    assert weights.keys() == parity["bert_tiny"].weights.keys()


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return write_file, (str(self.file),)


def write_file(name: str) -> str:
    """Write the file; called by malicious pickles."""
    Path(name).write_text("ran")
    return name


class Calls:
    """Calls a function of the standard library when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def hostile_objects(file: Path) -> dict[str, Any]:
    """Return objects that write the file if any of their code is executed."""
    code = f"open({str(file)!r}, 'w').write('ran')"
    return {
        "os.system": Calls(os.system, f"echo ran > {file}"),
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "custom": Writes(file),
    }


HOSTILE = ("os.system", "eval", "exec", "custom")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "alone"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path: Path, kind: str, place: str, zipped: bool) -> None:
    """The file is not created: reading raises a CheckpointError, or substitutes an inert object."""
    evidence, file = tmp_path / "evidence", tmp_path / "checkpoint.pth"
    hostile, weights = hostile_objects(evidence)[kind], {"w": torch.ones(2)}
    content: Any = {
        "beside the weights": {"model": weights, "args": hostile},
        "as a weight": {"model": {**weights, "x": hostile}},
        "alone": hostile,
    }[place]
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    try:
        read = read_checkpoint(file)
    except CheckpointError:
        pass
    else:
        assert place == "beside the weights"
        assert set(read) == {"w"}
        assert torch.equal(read["w"], weights["w"])
    assert not evidence.exists()


def test_hostile_pickle_would_run(tmp_path: Path) -> None:
    """Validation of the previous test: without protection, each of these files executes code."""
    for index, kind in enumerate(HOSTILE):
        evidence, file = tmp_path / f"evidence{index}", tmp_path / f"{index}.pth"
        torch.save(hostile_objects(evidence)[kind], file)
        torch.load(file, weights_only=False)
        assert evidence.exists(), kind


def test_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    """A file of the pickle module is rejected."""
    evidence, file = tmp_path / "evidence", tmp_path / "checkpoint.pkl"
    file.write_bytes(pickle.dumps({"model": Writes(evidence)}, protocol=2))
    with pytest.raises(CheckpointError, match="is not a checkpoint that can be read safely"):
        read_checkpoint(file)
    assert not evidence.exists()


def broken_files(folder: Path) -> dict[str, Path]:
    """Return files that are not checkpoints."""
    whole = folder / "whole.pth"
    torch.save({"w": torch.ones(1000)}, whole)
    save_file({"w": torch.ones(1000)}, folder / "whole.safetensors")
    contents = {
        "truncated.pth": whole.read_bytes()[:2000],
        "truncated.safetensors": (folder / "whole.safetensors").read_bytes()[:2000],
        "empty.pth": b"",
        "empty.safetensors": b"",
        "text.pth": b"<html>404 Not Found</html>",
        "image.pth": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    return {name: folder / name for name in (*contents, "archive.pth")}


BROKEN = (
    "truncated.pth",
    "truncated.safetensors",
    "empty.pth",
    "empty.safetensors",
    "text.pth",
    "image.pth",
    "pointer.safetensors",
    "archive.pth",
)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path: Path, name: str) -> None:
    """The error is one sentence with the file name."""
    file = broken_files(tmp_path)[name]
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(file)
    message = str(raised.value)
    assert str(file) in message
    assert len(message.splitlines()) == 1
    assert isinstance(raised.value, ReferSamError)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """Neither is a file."""
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(CheckpointError, match="No such file"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [{}, {"model": {}}, {"epoch": 3}, [torch.ones(1)], torch.ones(1), {"model": {"a": torch.ones(1), "b": "text"}}],
)
def test_files_without_weights(tmp_path: Path, content: Any) -> None:
    """Readable, but not a dictionary of tensors."""
    file = tmp_path / "checkpoint.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="holds no weights: expected a dictionary of tensors"):
        read_checkpoint(file)


# Conversion


@pytest.mark.parametrize("name", ["bert_tiny", "clip_tiny"])
def test_converted_checkpoint_gives_the_authors_masks(
    parity: dict, load_case: Callable, parity_folder: Path, tmp_path: Path, name: str
) -> None:
    """From the authors' training checkpoint through a converted folder to their logits."""
    file, out = tmp_path / "checkpoint.pth", tmp_path / "model"
    torch.save(as_training_checkpoint(with_module(parity[name].weights)), file)
    config = read_authors_config(parity_folder / name / "config.json")
    assert convert_official_checkpoint(file, config, out) == len(parity[name].model.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "model"]
    model = ReferSamModel.from_pretrained(out)
    assert not model.training
    case, _ = load_case(name, 1)
    with torch.no_grad():
        logits = model(case["pixel_values"], case["input_ids"], case["attention_mask"]).mask_logits
    error = (logits - case["mask_logits"]).abs().max() / case["mask_logits"].abs().max()
    assert error < 1e-5


def small_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer within the parity models' vocabulary of 120."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {entry: index for index, entry in enumerate([*special.values(), *words])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_tokenizer_is_put_beside_the_weights(parity: dict, tmp_path: Path) -> None:
    """With the folder of a tokenizer, the result has a processor and works in the predictor."""
    file, out, folder = tmp_path / "weights.pth", tmp_path / "model", tmp_path / "tokenizer"
    sizes = parity["bert_tiny"].sizes
    torch.save(parity["bert_tiny"].weights, file)
    small_tokenizer(["a", "red", "circle"]).save_pretrained(folder)
    out.mkdir()  # an empty folder may be there
    convert_official_checkpoint(file, config_from_authors(sizes), out, str(folder), image_size=64)
    processor = ReferSamProcessor.from_pretrained(out)
    assert processor.image_processor.size == {"height": 64, "width": 64}
    words = processor.tokenizer.convert_ids_to_tokens(processor.encode_phrases(["a red circle"])["input_ids"][0])
    assert words == ["[CLS]", "a", "red", "circle", "[SEP]"]
    assert isinstance(ReferSamPredictor.from_pretrained(str(out), device="cpu"), ReferSamPredictor)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_existing_output_is_refused(parity: dict, tmp_path: Path, what: str) -> None:
    """Existing files are not changed."""
    file, out = tmp_path / "weights.pth", tmp_path / "model"
    torch.save(parity["bert_tiny"].weights, file)
    kept = out
    if what == "folder":
        out.mkdir()
        kept = out / "precious.txt"
    kept.write_text("precious")
    with pytest.raises(CheckpointError, match=r"already exists: name a new folder"):
        convert_official_checkpoint(file, config_from_authors(parity["bert_tiny"].sizes), out)
    assert kept.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "weights.pth"]


def test_a_second_conversion_is_refused(parity: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second must not remove the files of the first."""
    file, out = tmp_path / "weights.pth", tmp_path / "model"
    torch.save(parity["bert_tiny"].weights, file)
    config, save = config_from_authors(parity["bert_tiny"].sizes), ReferSamModel.save_pretrained

    def meanwhile(self: ReferSamModel, folder: Path, **options: Any) -> None:
        save(self, folder, **options)
        monkeypatch.setattr(ReferSamModel, "save_pretrained", save)
        with pytest.raises(DataError, match=r"^Another process is at work in .*model: wait for it"):
            convert_official_checkpoint(file, config, out)

    monkeypatch.setattr(ReferSamModel, "save_pretrained", meanwhile)
    convert_official_checkpoint(file, config, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "weights.pth"]
    assert (out / "config.json").exists()


@pytest.mark.parametrize("failure", ["weights", "configuration", "tokenizer", "disk"])
def test_failure_leaves_nothing_behind(
    parity: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """After any error there is no output folder."""
    file, out = tmp_path / "weights.pth", tmp_path / "model"
    weights, tokenizer, error = dict(parity["bert_tiny"].weights), None, CheckpointError
    name = "clip_tiny" if failure == "configuration" else "bert_tiny"
    if failure == "weights":
        weights.popitem()
    if failure == "tokenizer":
        tokenizer = str(tmp_path / "no-such-tokenizer")
    if failure == "disk":
        error = OSError

        def full(_self: Any, folder: Path, **_kwargs: Any) -> None:
            Path(folder).mkdir()
            (Path(folder) / "config.json").write_text("{}")
            raise OSError("No space left on device")

        monkeypatch.setattr(ReferSamModel, "save_pretrained", full)
    torch.save(weights, file)
    with pytest.raises(error):
        convert_official_checkpoint(file, config_from_authors(parity[name].sizes), out, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


# The authors' configuration


def test_configuration_from_the_authors_sizes(parity: dict) -> None:
    """Each size is set in its field."""
    config = config_from_authors(parity["clip_tiny"].sizes)
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (48, 8, 4)
    assert (vision.image_size, vision.window_size, vision.global_attn_indexes) == (128, 3, [1, 3, 5, 7])
    assert (config.prompt_hidden_size, config.mask_decoder_config.mlp_dim) == (64, 128)
    assert config.layer_groups == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert (config.spatial_prior_channels, config.fusion_hidden_size, config.fusion_ffn_ratio) == (16, 48, 2.0)
    assert (config.num_context_tokens, config.num_sparse_tokens, config.num_extra_fusions) == (16, 4, 2)
    assert (config.text_encoder_kind, config.freeze_text_encoder) == ("clip", True)
    assert config.text_config.eos_token_id == 119


@pytest.mark.parametrize(
    "content",
    ["not json", "[]", "{}", '{"sam": {}, "refersam": {}, "text": {}}', "[" * 100_000, '{"sam": ' + "9" * 5_000 + "}"],
)
def test_wrong_configuration_files(tmp_path: Path, content: str) -> None:
    """Not JSON, or missing sizes: one sentence."""
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=r"is not a JSON file that can be read|needs the sections"):
        read_authors_config(file)


def test_missing_or_unknown_sizes_are_named(parity: dict) -> None:
    """The error names the size."""
    sizes = json.loads(json.dumps(parity["bert_tiny"].sizes))
    del sizes["refersam"]["n_points"]
    with pytest.raises(CheckpointError, match="n_points"):
        config_from_authors(sizes)
    sizes = {**parity["bert_tiny"].sizes, "text": {"type": "t5", "config": {}}}
    with pytest.raises(CheckpointError, match="t5"):
        config_from_authors(sizes)


@pytest.mark.parametrize(("name", "value"), [("interaction_indexes", [[0, 2], [3, 5]]), ("deform_num_heads", 0)])
def test_sizes_that_do_not_fit_together(parity: dict, name: str, value: object) -> None:
    """Errors of the configuration are one sentence, too."""
    sizes = json.loads(json.dumps(parity["bert_tiny"].sizes))
    sizes["refersam"][name] = value
    with pytest.raises(CheckpointError, match="needs the sections"):
        config_from_authors(sizes)


def test_missing_configuration_file(tmp_path: Path) -> None:
    """The error names the missing file."""
    with pytest.raises(CheckpointError, match=r"nothing\.json is not a JSON file that can be read"):
        read_authors_config(tmp_path / "nothing.json")
