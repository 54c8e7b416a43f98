"""The whole model: shapes, phrases that share an image, saving and loading, initialisation, invalid sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedConfig

import refersam
from refersam import ReferSamConfig, ReferSamImageProcessor, ReferSamModel, ReferSamOutput, ReferSamProcessor
from refersam.config import sam_vision_config
from refersam.model.fast import chunks, window_attention
from refersam.model.prompter import Prompter
from refersam.model.pyramid import PyramidGeometry

TOLERANCE = 2e-5
"""Largest difference by largest value between two orders of the same float32 sums."""

TEXT_ENCODERS = ("bert", "clip")


def random_images(count: int, height: int = 64, width: int = 64) -> Tensor:
    """Return random images (count, 3, height, width)."""
    return torch.randn(count, 3, height, width)


def phrases(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return random token ids of these lengths, padded to the longest, and their mask: both (B, S)."""
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, 50, mask.shape) * mask, mask


def assert_close(ours: ReferSamOutput, other: ReferSamOutput) -> None:
    """Assert that all fields agree to TOLERANCE."""
    assert ours.keys() == other.keys()
    for name, value in ours.items():
        difference = (value - other[name]).abs().max() / other[name].abs().max()
        assert difference <= TOLERANCE, name


def sizes_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of a configuration without those of saving and loading by transformers."""
    noted = {"dtype", "architectures", "transformers_version", "_name_or_path", "_attn_implementation_autoset"}
    return {name: value for name, value in config.to_dict().items() if name not in noted}


@pytest.fixture
def build(small_config: Callable) -> Callable[..., ReferSamModel]:
    """Call with a text encoder and fields to build a small random model in evaluation mode."""
    return lambda *args, **fields: ReferSamModel(small_config(*args, **fields)).eval()


@pytest.mark.parametrize("fields", [{}, {"use_interactor": False}], ids=["interactor", "plain encoder"])
@torch.no_grad()
def test_cached_features_replace_the_images(build: Callable, fields: dict[str, Any]) -> None:
    """For later phrases; exactly one of images and features must be given."""
    model = build("bert", **fields)
    pixels, (ids, mask) = random_images(2), phrases([3, 5, 4, 2])
    features = model.encode_image(pixels)
    assert_close(model(None, ids, mask, image_features=features), model(pixels, ids, mask))
    assert_close(model(None, ids[:2], mask[:2], image_features=features), model(pixels, ids[:2], mask[:2]))
    for arguments in ((pixels, ids, mask, features), (None, ids, mask, None)):
        with pytest.raises(ValueError, match="Either pixel_values or image_features must be given"):
            model(*arguments)
    with pytest.raises(ValueError, match="multiple of the number of images, but there are 3 phrases and 2 images"):
        model(None, ids[:3], mask[:3], image_features=features)
    with pytest.raises(ValueError, match="multiples of 32"):
        model.encode_image(random_images(1, 40))


@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
@pytest.mark.parametrize("fields", [{}, {"guided_filter_radius": 2}, {"use_dense_prompt": False}], ids=str)
@torch.no_grad()
def test_clicks_enter_the_decoders_pass(build: Callable, text_encoder: str, fields: dict[str, Any]) -> None:
    """After the phrase's prompts; a previous mask replaces the coarse one; nothing else is computed anew."""
    model = build(text_encoder, **fields)
    pixels, (ids, mask) = random_images(2, 64, 96), phrases([3, 5, 4, 2])
    points, labels = 60 * torch.rand(4, 2, 2), torch.tensor([[1, 0], [1, -1], [0, 0], [1, 1]])
    boxes, previous = torch.tensor([[3.0, 4, 50, 60]]).expand(4, 4), torch.randn(4, 16, 24)
    plain = model(pixels, ids, mask)
    features = model.encode_phrases(pixels, ids, mask)
    for prompts in (
        {},
        {"input_points": points, "input_labels": labels},
        {"input_boxes": boxes},
        {"mask_prompt": previous},
        {"input_points": points, "input_labels": labels, "input_boxes": boxes, "mask_prompt": previous},
    ):
        output = model(pixels, ids, mask, **prompts)
        assert all(torch.equal(value, model.decode(features, **prompts)[name]) for name, value in output.items())
        assert torch.equal(output.mask_logits, plain.mask_logits) == (not prompts)
        if not fields.get("use_dense_prompt", True):
            continue
        assert torch.equal(output.coarse_mask_logits, plain.coarse_mask_logits)
    scaled = features.dense_prompt
    if scaled is not None:  # the coarse mask as its own previous mask changes nothing
        assert torch.equal(model.decode(features, mask_prompt=scaled.squeeze(1)).mask_logits, plain.mask_logits)
    parts = features.split(2)
    assert_close(model.decode(type(features).concatenate(parts[::-1])), _swapped(plain))
    assert_close(model.decode(features.split(4)[1]), _rows(plain, [1]))


def _rows(output: ReferSamOutput, rows: list[int]) -> ReferSamOutput:
    return ReferSamOutput(**{name: value[rows] for name, value in output.items()})


def _swapped(output: ReferSamOutput) -> ReferSamOutput:
    return _rows(output, [2, 3, 0, 1])


@torch.no_grad()
def test_prompts_of_wrong_shapes(build: Callable) -> None:
    """One sentence each."""
    model, pixels, ids = build("bert"), random_images(1), torch.tensor([[2, 3], [2, 4]])
    points, labels = torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.long)
    for message, prompts in (
        ("belong together", {"input_points": points}),
        ("belong together", {"input_labels": labels}),
        (r"input_points must be \(2, 3, 2\), but is \(2, 3, 3\)", {"input_points": torch.zeros(2, 3, 3)}),
        (r"input_labels must be \(2, 3\), but is \(2, 2\)", {"input_points": points, "input_labels": labels[:, :2]}),
        (r"input_boxes must be \(2, 4\), but is \(1, 4\)", {"input_boxes": torch.zeros(1, 4)}),
        (r"mask_prompt must be \(2, 16, 16\), but is \(2, 64, 64\)", {"mask_prompt": torch.zeros(2, 64, 64)}),
    ):
        given = {"input_labels": labels, **prompts} if "must be" in message and "input_points" in prompts else prompts
        with pytest.raises(ValueError, match=message):
            model(pixels, ids, **given)


@pytest.mark.parametrize("fields", [{}, {"guided_filter_radius": 2}], ids=["plain", "guided filter"])
@pytest.mark.parametrize("tokens", [37, 300], ids=["parts of an image", "two images"])
@torch.no_grad()
def test_the_same_in_chunks(
    build: Callable, monkeypatch: pytest.MonkeyPatch, tokens: int, fields: dict[str, Any]
) -> None:
    """Chunks of tokens and of heads, as for large images; cached features can be used again."""
    model = build("bert", **fields)
    pixels, (ids, mask) = random_images(2, 64, 96), phrases([3, 5, 4, 2, 7, 3])
    expected = model(pixels, ids, mask)
    monkeypatch.setitem(chunks.CHUNK_VALUES, "cpu", tokens * model.config.vision_config.hidden_size)
    monkeypatch.setattr(window_attention, "MAX_HEAD_TOKENS", 30)
    features = model.encode_image(pixels)
    assert_close(model(pixels, ids, mask), expected)
    for _ in range(2):
        assert_close(model(None, ids, mask, image_features=features), expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (32, 96), (96, 64)])
@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
@torch.no_grad()
def test_shapes(build: Callable, text_encoder: str, height: int, width: int) -> None:
    """Outputs have the documented shapes below, at and above the ViT's own size, square or not."""
    output = build(text_encoder, object_score_head=True)(random_images(2, height, width), *phrases([5, 3]))
    assert isinstance(output, ReferSamOutput)
    assert {name: tuple(value.shape) for name, value in output.items()} == {
        "mask_logits": (2, height, width),
        "low_res_mask_logits": (2, height // 4, width // 4),
        "coarse_mask_logits": (2, height // 4, width // 4),
        "iou_scores": (2,),
        "object_score_logits": (2,),
    }
    assert all(value.isfinite().all() for value in output.values())


def test_mask_logits_are_the_low_resolution_ones_with_corners_aligned(build: Callable) -> None:
    """The full mask's corners are exactly the small mask's corners."""
    with torch.no_grad():
        output = build()(random_images(1, 64, 96), *phrases([4]))
    full, small = output.mask_logits[0], output.low_res_mask_logits[0]
    for row in (0, -1):
        for column in (0, -1):
            assert full[row, column].item() == pytest.approx(small[row, column].item(), rel=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_same_type_in_training_and_evaluation(build: Callable, head: bool) -> None:
    """Both modes return ReferSamOutput with the same fields; the object score requires its head."""
    model, inputs = build(object_score_head=head), (random_images(1), *phrases([4]))
    fields = []
    for mode in (True, False):
        output = model.train(mode)(*inputs)
        assert type(output) is ReferSamOutput
        fields.append({name: value.shape for name, value in output.items()})
    assert fields[0] == fields[1]
    assert (output.object_score_logits is not None) is head
    assert output.mask_logits.requires_grad


@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
@torch.no_grad()
def test_several_phrases_per_image_equal_one_by_one(build: Callable, text_encoder: str) -> None:
    """Phrases of one image share its features, with the results of single phrases."""
    model = build(text_encoder, object_score_head=True)
    images, (ids, mask) = random_images(2), phrases([5, 3, 4, 2, 5, 4])
    together = model(images, ids, mask)
    one_by_one = [model(images[i // 3][None], ids[i : i + 1], mask[i : i + 1]) for i in range(6)]
    apart = ReferSamOutput(**{name: torch.cat([output[name] for output in one_by_one]) for name in together})
    assert_close(together, apart)
    repeated = model(images.repeat_interleave(3, dim=0), ids, mask)
    assert_close(together, repeated)
    # The comparison would mean nothing if all phrases looked alike.
    logits = together.mask_logits
    for other in (1, 3):
        assert (logits[0] - logits[other]).abs().max() > 100 * TOLERANCE * logits.abs().max()


@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
@torch.no_grad()
def test_padding_changes_nothing(build: Callable, text_encoder: str) -> None:
    """Additional padding changes no output, for any padding values; without the mask it would."""
    model = build(text_encoder)
    images, (ids, mask) = random_images(2), phrases([5, 3])
    plain = model(images, ids, mask)
    padded_ids = torch.cat([ids, torch.randint(3, 50, (2, 6))], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(2, 6, dtype=torch.long)], dim=1)
    assert_close(model(images, padded_ids, padded_mask), plain)
    unmasked = model(images, padded_ids).mask_logits
    assert (unmasked - plain.mask_logits).abs().max() > 100 * TOLERANCE * plain.mask_logits.abs().max()


@torch.no_grad()
def test_without_mask_every_token_counts(build: Callable) -> None:
    """Without attention mask there is no padding."""
    model = build()
    images, (ids, mask) = random_images(1), phrases([5])
    assert_close(model(images, ids), model(images, ids, mask))


WRONG_INPUTS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]] = [
    ((3, 64, 64), (1, 4), (1, 4), r"pixel_values must be \(B, 3, H, W\), but is \(3, 64, 64\)"),
    ((1, 4, 64, 64), (1, 4), (1, 4), r"pixel_values must be \(B, 3, H, W\), but is \(1, 4, 64, 64\)"),
    ((1, 3, 64, 40), (1, 4), (1, 4), r"multiples of 32, but are \(64, 40\): resize the image"),
    ((1, 3, 0, 64), (1, 4), (1, 4), r"multiples of 32, but are \(0, 64\)"),
    ((1, 3, 64, 64), (4,), (4,), r"must both be \(B, S\), but are \(4,\)"),
    ((1, 3, 64, 64), (1, 4), (1, 5), r"must both be \(B, S\), but are \(1, 4\) and \(1, 5\)"),
    ((2, 3, 64, 64), (3, 4), (3, 4), "3 phrases and 2 images"),
    ((2, 3, 64, 64), (1, 4), (1, 4), "1 phrases and 2 images"),
    ((1, 3, 64, 64), (0, 4), (0, 4), "0 phrases and 1 images"),
    ((0, 3, 64, 64), (2, 4), (2, 4), "2 phrases and 0 images"),
]


@pytest.mark.parametrize(("pixels", "ids", "mask", "message"), WRONG_INPUTS)
def test_wrong_inputs(
    build: Callable, pixels: tuple[int, ...], ids: tuple[int, ...], mask: tuple[int, ...], message: str
) -> None:
    """A ValueError reports inconsistent shapes."""
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(pixels), torch.ones(ids, dtype=torch.long), torch.ones(mask, dtype=torch.long))


@pytest.mark.parametrize(
    ("text_encoder", "fields"),
    [
        ("bert", {}),
        ("bert", {"freeze_text_encoder": True, "object_score_head": True, "supervise_iou": True}),
        ("clip", {}),
        ("clip", {"freeze_text_encoder": False, "num_context_tokens": 3, "num_sparse_tokens": 2}),
    ],
)
def test_save_and_load(build: Callable, tmp_path: Path, text_encoder: str, fields: dict[str, Any]) -> None:
    """A loaded model has the same configuration, weights, outputs and frozen parts."""
    model = build(text_encoder, **fields)
    model.save_pretrained(tmp_path)
    loaded, report = ReferSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config", "text_config"):
        assert sizes_of(getattr(loaded.config, part)) == sizes_of(getattr(model.config, part)), part
    for name, value in fields.items():
        assert getattr(loaded.config, name) == value
    assert loaded.config.freeze_text_encoder is fields.get("freeze_text_encoder", text_encoder == "clip")
    assert loaded.config.layer_groups == model.config.layer_groups
    assert loaded.config.mask_decoder_config.layer_norm_eps == 1e-5
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == trained
    assert not loaded.training
    with torch.no_grad():
        images, text = random_images(1), phrases([5])
        assert_close(loaded(images, *text), model(images, *text))


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_parts(build: Callable, tmp_path: Path, frozen: bool) -> None:
    """The Fourier matrix is never trained; a frozen text encoder is not trained, and runs without dropout."""
    build(freeze_text_encoder=frozen).save_pretrained(tmp_path)
    for model in (build(freeze_text_encoder=frozen), ReferSamModel.from_pretrained(tmp_path)):
        model.train()
        assert model.training
        assert model.interactor.training
        assert model.text_encoder.training is not frozen
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        text = {name for name, _ in model.named_parameters() if name.startswith("text_encoder.")}
        matrix = {"sam.prompt_encoder.shared_embedding.positional_embedding"}
        assert fixed == (matrix | text if frozen else matrix)
        output = model(random_images(1), *phrases([4]))
        output.mask_logits.mean().backward()
        gradients = [parameter.grad for parameter in model.text_encoder.parameters()]
        assert any(gradient is not None for gradient in gradients) is not frozen


def test_freezing_can_be_chosen_when_loading(build: Callable, tmp_path: Path) -> None:
    """A model saved with a trained text encoder is loaded with a frozen one."""
    build().save_pretrained(tmp_path)
    model = ReferSamModel.from_pretrained(tmp_path, freeze_text_encoder=True)
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())


def test_object_score_head_added_when_loading(build: Callable, tmp_path: Path) -> None:
    """A model without the head is loaded with one: only the head is missing and initialised."""
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = ReferSamModel.from_pretrained(tmp_path, object_score_head=True, output_loading_info=True)
    assert report["missing_keys"]
    assert all(name.startswith("sam.object_score_head.") for name in report["missing_keys"])
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    width = loaded.config.prompt_hidden_size
    for name, parameter in loaded.sam.object_score_head.named_parameters():
        if name.endswith("weight"):
            assert 0.1 / math.sqrt(width) < parameter.abs().max() <= 1 / math.sqrt(width) + 1e-6, name
    with torch.no_grad():
        assert loaded(random_images(1), *phrases([4])).object_score_logits.isfinite().all()


def test_auto_classes(tiny_model_folder: Path) -> None:
    """transformers' Auto classes find ReferSAM's after `register`, which may be called twice."""
    refersam.register()
    refersam.register()
    assert type(AutoConfig.from_pretrained(tiny_model_folder)) is ReferSamConfig
    assert type(AutoModel.from_pretrained(tiny_model_folder)) is ReferSamModel
    assert type(AutoImageProcessor.from_pretrained(tiny_model_folder)) is ReferSamImageProcessor
    processor = AutoProcessor.from_pretrained(tiny_model_folder)
    assert type(processor) is ReferSamProcessor
    assert processor.image_processor.size == {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("preset", "text_encoder", "millions"),
    [("base", "bert", 288.2), ("base", "clip", 224.5), ("large", "bert", 544.9), ("huge", "bert", 918.6)],
)
def test_parameter_counts(preset: str, text_encoder: str, millions: float) -> None:
    """The presets have the published numbers of parameters."""
    with torch.device("meta"):
        model = ReferSamModel(ReferSamConfig.from_preset(preset, text_encoder=text_encoder))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


def test_published_presets_have_the_defaults() -> None:
    """16 context and 4 sparse tokens, 4 points, ratio 0.5, and so on, as in the table of the architecture."""
    for preset, width, heads, depth in (("base", 768, 12, 12), ("large", 1024, 16, 24), ("huge", 1280, 16, 32)):
        config = ReferSamConfig.from_preset(preset)
        vision = config.vision_config
        assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (width, heads, depth)
        assert (config.deformable_num_heads, config.fusion_num_heads, config.fusion_hidden_size) == (
            heads,
            heads,
            width,
        )
        assert [last - first + 1 for first, last in config.layer_groups] == [depth // 4] * 4
        assert (config.num_context_tokens, config.num_sparse_tokens) == (16, 4)
        assert (config.deformable_num_points, config.deformable_value_ratio) == (4, 0.5)
        assert (config.fusion_ffn_ratio, config.spatial_prior_channels, config.num_extra_fusions) == (2, 64, 2)
        assert (config.num_prompter_layers, config.prompter_num_heads, config.prompter_ffn_ratio) == (2, 8, 4)
        assert (config.injection_gate_init, config.fusion_gate_init) == (1e-6, 1)
        assert (config.supervise_iou, config.object_score_head, config.freeze_text_encoder) == (False, False, False)
        assert config.mask_decoder_config.layer_norm_eps == 1e-5
    assert ReferSamConfig.from_preset("base", text_encoder="clip").freeze_text_encoder is True


def test_norm_epsilons(build: Callable) -> None:
    """1e-6 in everything new and SAM's encoder, 1e-5 in the two-way decoder and CLIP, 1e-12 in BERT."""
    model, clip = build(), build("clip")
    expected = {
        model.interactor: 1e-6,
        model.prompter: 1e-6,
        model.sam.vision_encoder: 1e-6,
        model.sam.prompt_encoder: 1e-6,
        model.sam.mask_decoder.transformer: 1e-5,
        model.text_encoder: 1e-12,
        clip.text_encoder: 1e-5,
    }
    for part, epsilon in expected.items():
        found = {layer.eps for layer in part.modules() if isinstance(layer, nn.LayerNorm | nn.GroupNorm)}
        assert found == {epsilon}, type(part).__name__


def test_prompters_seed_is_cut_from_the_graph(small_config: Callable) -> None:
    """The sentence token initialises the dense token without gradient; they flow through the text attention only."""
    config = small_config()
    prompter = ReferSamModel(config).prompter
    assert isinstance(prompter, Prompter)
    geometry = PyramidGeometry.of_image(32, 32, torch.device("cpu"))
    length = sum(geometry.level_lengths)
    text, pyramid, features = torch.randn(2, 4, 32), torch.randn(2, length, 32), torch.randn(2, 32, 8, 8)
    mask, sentence = torch.ones(2, 4, dtype=torch.bool), torch.tensor([0, 3])

    def coarse(words: Tensor) -> Tensor:
        return prompter(words, mask, sentence, pyramid, features, geometry).coarse_mask_logits

    words = text.clone().requires_grad_()
    coarse(words).square().sum().backward()
    assert words.grad is not None
    assert (words.grad.flatten(2).abs().sum(dim=2) > 0).all()  # through the attention to every token

    for layer in prompter.layers:
        nn.init.zeros_(layer.text_attention.v_proj.weight)  # closes the attention: only the seed reads the text
    words = text.clone().requires_grad_()
    before = coarse(words)
    before.square().sum().backward()
    assert words.grad is None or not words.grad.any()
    for position, changes in ((0, [True, False]), (3, [False, True]), (1, [False, False])):
        other = text.clone()
        other[:, position] += 1
        differs = (coarse(other) - before).detach().flatten(1).abs().amax(dim=1) > 1e-4
        assert differs.tolist() == changes


@pytest.mark.parametrize("fields", [{"num_context_tokens": 0}, {"num_sparse_tokens": 0}])
def test_without_context_or_sparse_tokens(build: Callable, tmp_path: Path, fields: dict[str, int]) -> None:
    """Ablations without these tokens run, train, and can be saved and loaded."""
    model = build(**fields)
    images, text = random_images(1), phrases([4])
    output = model(images, *text)
    assert output.mask_logits.isfinite().all()
    output.mask_logits.square().mean().backward()
    assert model.interactor.text_projection[0].weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    loaded = ReferSamModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(loaded(images, *text), output)
    full = build()
    saved = full.state_dict()["interactor.context_tokens"].numel() + full.state_dict()["prompter.sparse_tokens"].numel()
    tokens = model.interactor.context_tokens.numel() + model.prompter.sparse_tokens.numel()
    assert tokens < saved


@torch.no_grad()
def test_tokens_matter(build: Callable) -> None:
    """Context and sparse tokens change the mask."""
    model = build()
    images, text = random_images(1), phrases([4])
    before = model(images, *text).mask_logits
    for tokens in (model.interactor.context_tokens, model.prompter.sparse_tokens):
        kept = tokens.clone()
        tokens.add_(1)
        assert (model(images, *text).mask_logits - before).abs().max() > 1e-3
        tokens.copy_(kept)


def test_every_trained_parameter_of_ours_gets_a_gradient(build: Callable) -> None:
    """Every weight of interactor and prompter gets a gradient."""
    model = build()
    output = model(random_images(1), *phrases([4]))
    (output.mask_logits.square().mean() + output.coarse_mask_logits.square().mean()).backward()
    for part in (model.interactor, model.prompter):
        assert [name for name, parameter in part.named_parameters() if parameter.grad is None] == []


WRONG_SIZES: list[tuple[dict[str, Any], str]] = [
    ({"layer_groups": [[0, 1], [2, 2]]}, "layer_groups must cover the 4 ViT layers in order"),
    ({"layer_groups": [[0, 1], [1, 3]]}, "layer_groups must cover the 4 ViT layers in order"),
    ({"layer_groups": [[2, 3], [0, 1]]}, r"but got \[\[2, 3\], \[0, 1\]\]"),
    ({"prompt_encoder_config": {"hidden_size": 64, "image_size": 64}}, "must be equal, but are 32, 64 and 32"),
    ({"deformable_num_heads": 5}, "deformable_value_ratio .* must be a multiple of its 5 heads, but is 24"),
    ({"fusion_num_heads": 5}, "fusion_hidden_size must be a multiple of its 5 heads, but is 48"),
    ({"prompter_num_heads": 5}, "mask_decoder_config.hidden_size must be a multiple of its 5 heads, but is 32"),
    ({"text_config": {"model_type": "t5"}}, "text_config.model_type must be one of bert, clip_text_model, but is 't5'"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_SIZES)
def test_configuration_errors(small_config: Callable, fields: dict[str, Any], message: str) -> None:
    """A ValueError reports inconsistent sizes."""
    with pytest.raises(ValueError, match=message):
        small_config(**fields)


def test_configuration_refuses_another_patch_size(small_config: Callable) -> None:
    """The pyramid requires patches of 16 pixels."""
    vision = sam_vision_config(48, 4, 3, [1, 3], 64, 3, 32)
    vision.patch_size = 8
    with pytest.raises(ValueError, match="patch_size must be 16, but got 8"):
        small_config(vision_config=vision)


def test_configuration_refuses_another_text_configuration(small_config: Callable) -> None:
    """A configuration object of an unsupported type is rejected like its dictionary."""
    with pytest.raises(ValueError, match="text_config must be one of bert, clip_text_model, but is 'sam_vision_model'"):
        small_config(text_config=sam_vision_config(48, 4, 3, [1, 3], 64, 3, 32))


def test_unknown_presets() -> None:
    """The error lists the choices."""
    with pytest.raises(ValueError, match="Unknown preset 'small': choose one of tiny, base, large, huge"):
        ReferSamConfig.from_preset("small")
    with pytest.raises(ValueError, match=r"Unknown field 'num_sparse' of a configuration, did you mean num_sparse_t"):
        ReferSamConfig.from_preset("tiny", num_sparse=3)
    with pytest.raises(ValueError, match="Unknown text encoder 't5': choose one of bert, clip"):
        ReferSamConfig.from_preset("base", text_encoder="t5")
