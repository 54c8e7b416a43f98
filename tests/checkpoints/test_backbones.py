"""Starting from published weights: SAM (transformers' and Meta's formats), BERT and CLIP are loaded exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import write_backbones
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamModel

from refersam import ReferSamModel, ReferSamPredictor, ReferSamProcessor
from refersam.checkpoints.backbones import model_from_backbones
from refersam.checkpoints.keys import SAM_KEYS
from refersam.errors import CheckpointError

TEXT_SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SMALL = {"spatial_prior_channels": 8, "num_extra_fusions": 1, "fusion_num_heads": 2}
"""Fields that keep the rest of the model small."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_config: Callable) -> dict[str, Path]:
    """Small backbones in transformers' format, randomly initialised and saved once."""
    torch.manual_seed(0)
    root, config = tmp_path_factory.mktemp("backbones"), small_config()
    vision = CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    # A decoder with transformers' default epsilon, as the published folders have it: it must not be taken over.
    decoder = {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32, "layer_norm_eps": 1e-6}
    sam = SamConfig(
        vision_config=config.vision_config,
        prompt_encoder_config=config.prompt_encoder_config,
        mask_decoder_config=decoder,
    )
    models = {
        "sam": SamModel(sam),
        "bert": BertModel(config.text_config),
        "clip": CLIPModel(CLIPConfig(text_config=TEXT_SIZES, vision_config=vision.to_dict(), projection_dim=16)),
        "clip_text": CLIPTextModel(CLIPTextConfig(**TEXT_SIZES)),
    }
    for name, model in models.items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(root / name)
    return {name: root / name for name in models}


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder."""
    return load_file(folder / "model.safetensors")


def runs(model: ReferSamModel) -> None:
    """Assert that forward and backward passes give finite numbers."""
    output = model(torch.randn(1, 3, 64, 96), torch.tensor([[1, 5, 7, 2]]))
    assert output.mask_logits.shape == (1, 64, 96)
    output.mask_logits.square().mean().backward()
    assert output.mask_logits.isfinite().all()
    assert model.interactor.context_tokens.grad.isfinite().all()


def check_sam(model: ReferSamModel, folder: Path) -> None:
    """Assert that all SAM weights are those of the folder, with a frozen Fourier matrix."""
    saved, ours = weights_of(folder), model.sam.state_dict()
    for name, tensor in ours.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":  # one of its two tied names is stored
            twin = "shared_image_embedding.positional_embedding"
            assert torch.equal(tensor, saved[name if name in saved else twin])
        else:
            assert torch.equal(tensor, saved[name]), name
    fixed = {name for name, parameter in model.sam.named_parameters() if not parameter.requires_grad}
    assert fixed == {"prompt_encoder.shared_embedding.positional_embedding"}
    norms = [layer for layer in model.sam.mask_decoder.transformer.modules() if isinstance(layer, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize("text", ["bert", "clip", "clip_text"])
def test_transformers_folders(folders: dict[str, Path], text: str) -> None:
    """SAM and every kind of text encoder are loaded exactly; CLIP is frozen, BERT is trained."""
    model = model_from_backbones(folders["sam"], folders[text], **SMALL)
    check_sam(model, folders["sam"])
    saved = {name.removeprefix("text_model."): tensor for name, tensor in weights_of(folders[text]).items()}
    ours = model.text_encoder.state_dict()
    assert len(ours) > 30
    assert all(torch.equal(tensor, saved[name]) for name, tensor in ours.items() if not name.endswith("position_ids"))
    trained = {parameter.requires_grad for parameter in model.text_encoder.parameters()}
    assert trained == {text == "bert"}
    assert model.config.text_encoder_kind == ("bert" if text == "bert" else "clip")
    assert model.config.layer_groups == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert (model.config.deformable_num_heads, model.config.fusion_hidden_size) == (3, 48)
    runs(model)


def test_saved_model_from_backbones_comes_back(folders: dict[str, Path], tmp_path: Path) -> None:
    """It is an ordinary model of transformers."""
    model = model_from_backbones(folders["sam"], folders["clip"], **SMALL)
    model.save_pretrained(tmp_path)
    loaded = ReferSamModel.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert loaded.config.freeze_text_encoder is True


def test_overrides(folders: dict[str, Path]) -> None:
    """Other fields are set in the configuration, and the object-score head is initialised."""
    model = model_from_backbones(
        folders["sam"],
        folders["clip"],
        **SMALL,
        layer_groups=[[0, 1], [2, 3]],
        freeze_text_encoder=False,
        object_score_head=True,
        num_context_tokens=3,
    )
    assert len(model.interactor.interactions) == 2
    assert model.interactor.context_tokens.shape == (3, 32)
    assert all(parameter.requires_grad for parameter in model.text_encoder.parameters())
    assert all(parameter.isfinite().all() for parameter in model.sam.object_score_head.parameters())
    assert any(parameter.any() for parameter in model.sam.object_score_head.parameters())


# Meta's format


def metas_names(folder: Path) -> dict[str, Tensor]:
    """Return a folder's SAM weights under Meta's names, by the inverse key table."""
    saved = weights_of(folder)
    matrix = "shared_image_embedding.positional_embedding"
    saved.setdefault("prompt_encoder.shared_embedding.positional_embedding", saved.get(matrix, torch.empty(0)))
    saved.pop(matrix, None)
    theirs: dict[str, Tensor] = {}
    for pattern, ours in SAM_KEYS:
        for i in [str(number) for number in range(12)] if "{i}" in ours else [""]:
            for j in [str(number) for number in range(1, 5)] if "{j}" in ours else [""]:
                if "{rest}" in ours:
                    start = ours.split("{rest}")[0].format(i=i, j=j).removeprefix("sam.")
                    rests = [name.removeprefix(start) for name in saved if name.startswith(start)]
                else:
                    rests = [""]
                for rest in rests:
                    for p in ("weight", "bias") if "{p}" in ours else ("",):
                        name = ours.format(i=i, j=j, p=p, rest=rest).removeprefix("sam.")
                        if name in saved:
                            theirs[pattern.format(i=i, j=j, p=p, rest=rest)] = saved[name]
    assert len(theirs) == len(saved)
    return theirs


@pytest.fixture(scope="module")
def meta_weights(folders: dict[str, Path]) -> dict[str, Tensor]:
    """The small SAM in Meta's format."""
    return metas_names(folders["sam"])


def test_metas_file(folders: dict[str, Path], meta_weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Meta's format gives the same weights, and the sizes follow from them."""
    file = tmp_path / "sam_vit_tiny.pth"
    torch.save(meta_weights, file)
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias" in meta_weights
    model = model_from_backbones(file, folders["bert"], **SMALL)
    check_sam(model, folders["sam"])
    vision = model.config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (48, 4, 3)
    assert (vision.image_size, vision.window_size, vision.global_attn_indexes) == (64, 3, [1, 3])
    assert (model.config.mask_decoder_config.mlp_dim, model.config.prompt_hidden_size) == (64, 32)
    assert model.config.prompt_encoder_config.mask_input_channels == 16
    runs(model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}},
    ],
    ids=["module.", "model", "state_dict of module."],
)
def test_metas_file_of_a_training(
    folders: dict[str, Path], meta_weights: dict[str, Tensor], tmp_path: Path, wrap: Callable
) -> None:
    """The forms of checkpoints that `convert official` accepts."""
    torch.save(wrap(meta_weights), tmp_path / "sam.pth")
    check_sam(model_from_backbones(tmp_path / "sam.pth", folders["bert"], **SMALL), folders["sam"])


# What is refused


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"echo ran > {self.file}",)


def refused(sam: Any, text: Any, **overrides: Any) -> str:
    """Return the message of the CheckpointError."""
    with pytest.raises(CheckpointError) as raised:
        model_from_backbones(sam, text, **{**SMALL, **overrides})
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_wrong_kinds_of_models(folders: dict[str, Path]) -> None:
    """Swapped backbones, or SAM twice: the error names the types."""
    assert "bert is a model of type 'bert', not 'sam'" in refused(folders["bert"], folders["bert"])
    message = refused(folders["sam"], folders["sam"])
    assert "sam is a model of type 'sam'; text encoders are bert, clip, clip_text_model" in message


def test_missing_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    """Neither a folder nor a valid Hub id."""
    for name in (str(tmp_path / "nothing"), "no/such/model"):
        for pair in ((name, folders["bert"]), (folders["sam"], name)):
            message = refused(*pair)
            assert f"No model configuration could be read from {name}" in message
            assert "expected a folder, a Hub id, or for SAM one of Meta's .pth files" in message


def copy_with(folder: Path, copy: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Return a copy of a folder with other weights."""
    copy.mkdir()
    (copy / "config.json").write_text((folder / "config.json").read_text())
    weights = weights_of(folder)
    change(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(("part", "key"), [("sam", "mask_decoder.iou_token.weight"), ("bert", None), ("clip", None)])
@pytest.mark.parametrize("problem", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit(
    folders: dict[str, Path], tmp_path: Path, part: str, key: str | None, problem: str
) -> None:
    """Missing, unexpected or misshapen weights always raise an error."""
    if key is None:
        ends = ("text_model.encoder.layers.0.mlp.fc1.weight", "layer.0.output.dense.weight")
        key = next(name for name in weights_of(folders[part]) if name.endswith(ends))

    def change(weights: dict[str, Tensor]) -> None:
        if problem == "missing":
            del weights[key]
        elif problem == "unexpected":
            weights["decoder.extra"] = torch.zeros(1)
        else:
            weights[key] = torch.zeros(3, 3)

    broken = copy_with(folders[part], tmp_path / part, change)
    message = refused(broken, folders["bert"]) if part == "sam" else refused(folders["sam"], broken)
    expected = {"missing": "1 missing", "unexpected": "1 unexpected", "shape": r"of another shape"}[problem]
    assert expected in message or "could not be read" in message
    assert str(broken) in message


def test_bert_without_pooler_is_fine(folders: dict[str, Path], tmp_path: Path) -> None:
    """The pooler is not used: a checkpoint may lack it, and may contain BERT's pretraining heads."""

    def change(weights: dict[str, Tensor]) -> None:
        del weights["pooler.dense.weight"], weights["pooler.dense.bias"]
        weights["cls.predictions.bias"] = torch.zeros(50)

    bert = copy_with(folders["bert"], tmp_path / "bert", change)
    model = model_from_backbones(folders["sam"], bert, **SMALL)
    saved = weights_of(bert)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(model.text_encoder.state_dict()[name], saved[name])


def test_broken_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """A truncated file gives one sentence, without a traceback."""
    for part in ("sam", "bert"):
        broken = copy_with(folders[part], tmp_path / part, lambda _weights: None)
        file = broken / "model.safetensors"
        file.write_bytes(file.read_bytes()[:3000])
        message = refused(broken, folders["bert"]) if part == "sam" else refused(folders["sam"], broken)
        assert f"The weights of {broken} could not be read" in message


def test_hostile_pickled_weights_run_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """An older folder's pytorch_model.bin is read without executing its code."""
    evidence = tmp_path / "evidence"
    (tmp_path / "config.json").write_text((folders["bert"] / "config.json").read_text())
    torch.save({"pooler.dense.bias": Hostile(evidence)}, tmp_path / "pytorch_model.bin")
    assert f"The weights of {tmp_path} could not be read" in refused(folders["sam"], tmp_path)
    assert not evidence.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)  # it would have
    assert evidence.exists()


def test_folder_without_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """A configuration without weights is not enough."""
    (tmp_path / "config.json").write_text((folders["sam"] / "config.json").read_text())
    assert f"The weights of {tmp_path} could not be read" in refused(tmp_path, folders["bert"])


def test_unknown_model_type(folders: dict[str, Path], tmp_path: Path) -> None:
    """A configuration of a type unknown to transformers."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    assert "No model configuration could be read" in refused(folders["sam"], tmp_path)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("unknown", "is not one of Meta's SAM checkpoints: 1 unknown names, such as head.weight"),
        ("no grid", "is not one of Meta's SAM checkpoints: 'vision_encoder.pos_embed' is missing or misshapen"),
        ("flat grid", "is not one of Meta's SAM checkpoints"),
        ("missing", "1 missing (mask_decoder.iou_token.weight)"),
        ("shape", "mask_decoder.iou_token.weight: (2, 32) where (1, 32) is expected"),
        ("no layers", "'vision_encoder.layers.0.attn.rel_pos_h' is missing or misshapen"),
    ],
)
def test_metas_file_that_does_not_fit(
    folders: dict[str, Path], meta_weights: dict[str, Tensor], tmp_path: Path, problem: str, expected: str
) -> None:
    """Each problem of a .pth file has its own message."""
    file, weights = tmp_path / "sam.pth", dict(meta_weights)
    if problem == "unknown":
        weights["head.weight"] = torch.zeros(1)
    elif problem == "no grid":
        del weights["image_encoder.pos_embed"]
    elif problem == "flat grid":
        weights["image_encoder.pos_embed"] = torch.zeros(4, 4)
    elif problem == "missing":
        del weights["mask_decoder.iou_token.weight"]
    elif problem == "shape":
        weights["mask_decoder.iou_token.weight"] = torch.zeros(2, 32)
    else:
        weights = {name: tensor for name, tensor in weights.items() if ".blocks." not in name}
    torch.save(weights, file)
    message = refused(file, folders["bert"])
    assert str(file) in message
    assert expected in message


def test_depth_that_four_does_not_divide(folders: dict[str, Path], small_config: Callable, tmp_path: Path) -> None:
    """Such a ViT needs layer_groups, which the error names."""
    config = small_config(layer_groups=[[0, 2], [3, 3]])
    config.vision_config.num_hidden_layers = 3
    sam = SamConfig(
        vision_config=config.vision_config,
        prompt_encoder_config=config.prompt_encoder_config,
        mask_decoder_config=config.mask_decoder_config,
    )
    SamModel(sam).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A ViT of 3 layers does not fall into four equal groups: give layer_groups"):
        model_from_backbones(tmp_path, folders["bert"], **SMALL)
    model = model_from_backbones(tmp_path, folders["bert"], **SMALL, layer_groups=[[0, 0], [1, 2]])
    assert len(model.interactor.interactions) == 2


def test_taken_out_of_a_trained_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    """`tools/backbones.py` writes checkpoints from which a new model gets the same SAM and text encoder."""
    write_backbones(str(tiny_model_folder), tmp_path)
    trained = ReferSamModel.from_pretrained(tiny_model_folder)
    built = model_from_backbones(tmp_path / "sam", tmp_path / "text", object_score_head=True)
    for name, tensor in trained.sam.state_dict().items():
        assert torch.equal(tensor, built.sam.state_dict()[name]) or name.startswith("object_score_head"), name
    for name, tensor in trained.text_encoder.state_dict().items():
        assert torch.equal(tensor, built.text_encoder.state_dict()[name]), name
    taken = ReferSamProcessor.from_text_encoder(tmp_path / "text")
    own = ReferSamPredictor.from_pretrained(tiny_model_folder).processor
    assert taken.tokenizer("the red dog")["input_ids"] == own.tokenizer("the red dog")["input_ids"]
