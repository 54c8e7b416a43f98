"""Published models: exactly the answers of transformers' own processors, on small random checkpoints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sam3_reference
import small_checkpoints
import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from PIL import Image

import refersam
from refersam import ReferSamPredictor, hub
from refersam.checkpoints.published import ALIASES, FAMILIES, find_published
from refersam.errors import CheckpointError
from refersam.inference.answers import phrase_outputs
from refersam.inference.published.sam3 import Sam3ImageProcessor
from refersam.inference.queries import Query, run_queries

PHRASES = ["the dog", "Red cat on the left", "a star of the chair"]
NAMES = ("clipseg", "grounded-sam", "sam3")
TORCHVISION = Path(__file__).parents[2] / ".venv" / "torchvision"
"""Where `make setup` puts torchvision, which transformers needs for SAM 3's own processor, out of reach of the rest."""


@pytest.fixture(scope="session")
def models(published_models: dict[str, str]) -> dict[str, str]:
    """The name of a small random model of each family, and of their parts."""
    return published_models


@pytest.fixture(scope="session")
def predictors(models: dict[str, str]) -> dict[str, ReferSamPredictor]:
    """Each family, loaded."""
    return {name: refersam.load_predictor(models[name], device="cpu") for name in NAMES}


@pytest.fixture(scope="session")
def image() -> Image.Image:
    """Of 140 x 95 pixels: neither square, nor of a model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((140, 95))


@torch.inference_mode()
def clipseg_masks(folder: str, image: Image.Image, phrases: list[str]) -> list[np.ndarray]:
    """By transformers alone, as the model's documentation does it."""
    processor = transformers.CLIPSegProcessor.from_pretrained(folder)
    model = transformers.CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    inputs = processor(text=phrases, images=[image] * len(phrases), padding=True, return_tensors="pt")
    logits = model(**inputs).logits.unsqueeze(1)
    resized = torch.nn.functional.interpolate(logits, image.size[::-1], mode="bilinear", align_corners=False)
    return list((resized[:, 0].sigmoid() > 0.5).numpy())


@torch.inference_mode()
def grounded_masks(
    dino: str, sam: str, image: Image.Image, phrase: str, threshold: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """By transformers alone: the united mask, and the scores of the boxes."""
    processor = transformers.AutoProcessor.from_pretrained(dino)
    detector = transformers.GroundingDinoForObjectDetection.from_pretrained(dino).eval()
    inputs = processor(images=image, text=[[phrase]], return_tensors="pt")
    (found,) = processor.post_process_grounded_object_detection(
        detector(**inputs), inputs["input_ids"], threshold=threshold, target_sizes=[image.size[::-1]]
    )
    if not len(found["boxes"]):
        return np.zeros(image.size[::-1], bool), found["scores"].numpy()
    processor = transformers.SamProcessor.from_pretrained(sam)
    inputs = processor(images=image, input_boxes=[found["boxes"].tolist()], return_tensors="pt")
    output = transformers.SamModel.from_pretrained(sam).eval()(**inputs, multimask_output=False)
    (masks,) = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    return masks[:, 0].any(dim=0).numpy(), found["scores"].numpy()


def test_clipseg_is_transformers(
    models: dict[str, str], predictors: dict[str, ReferSamPredictor], image: Image.Image
) -> None:
    answers = predictors["clipseg"].predict(image, PHRASES)
    expected = clipseg_masks(models["clipseg"], image, PHRASES)
    assert all(0.05 < mask.mean() < 0.95 for mask in expected)
    assert not np.array_equal(expected[0], expected[1])
    for answer, mask in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer.mask, mask)
        assert not answer.no_target
        assert answer.score == pytest.approx(answer.probability[mask].mean(), rel=1e-5)


def test_grounded_sam_is_transformers(
    models: dict[str, str], predictors: dict[str, ReferSamPredictor], image: Image.Image
) -> None:
    """Also where some boxes are below the threshold, and where all are."""
    answers = predictors["grounded-sam"].predict(image, PHRASES)
    counts = []
    for answer, phrase in zip(answers, PHRASES, strict=True):
        mask, scores = grounded_masks(models["dino"], models["sam"], image, phrase)
        counts.append(len(scores))
        np.testing.assert_array_equal(answer.mask, mask)
        assert answer.no_target == (not len(scores))
        if len(scores):
            assert answer.score == pytest.approx(scores.max(), rel=1e-5)
    assert any(0 < count < 12 for count in counts)
    assert any(answer.mask.any() for answer in answers)


@pytest.mark.parametrize("name", ["sam3", "detector"])
def test_sam3_is_transformers(models: dict[str, str], image: Image.Image, tmp_path: Path, name: str) -> None:
    """The published file, with its tracker, and a file of the detector alone."""
    answers = refersam.load_predictor(models[name], device="cpu").predict(image, PHRASES)
    file, out = tmp_path / "image.png", tmp_path / "masks.npz"
    image.save(file)
    expected = reference_of_sam3(models[name], file, out)
    for answer, mask, count in zip(answers, expected["masks"], expected["counts"], strict=True):
        np.testing.assert_array_equal(answer.mask, mask)
        assert answer.no_target == (count == 0)
    assert any(0 < count < 10 for count in expected["counts"])
    assert 0 in expected["counts"]
    processor = Sam3ImageProcessor(size={"height": small_checkpoints.SIDE, "width": small_checkpoints.SIDE})
    np.testing.assert_array_equal(processor([image])["pixel_values"].numpy(), expected["pixels"])


def reference_of_sam3(folder: str, file: Path, out: Path) -> Any:
    """Run transformers' own pipeline in a process that has torchvision."""
    path = [*([str(TORCHVISION)] if TORCHVISION.is_dir() else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, sam3_reference.__file__, folder, file, out, *PHRASES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    if sam3_reference.MISSING in done.stderr:
        pytest.skip("transformers' own processor of SAM 3 needs torchvision, which is not installed")
    assert not done.returncode, done.stderr
    return np.load(out)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoded_image_and_single_phrases_give_the_same(
    predictors: dict[str, ReferSamPredictor], image: Image.Image, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is encoded once, whatever number of phrases follow."""
    predictor = predictors[name]
    together = predictor.predict(image, PHRASES)
    encoded = predictor.set_image(image)
    monkeypatch.setattr(predictor.model, "encode_image", None)
    alone = [predictor.predict(encoded, phrase) for phrase in PHRASES]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
        assert one.no_target == other.no_target
        assert (one.mask != other.mask).mean() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_several_images_at_once(predictors: dict[str, ReferSamPredictor], image: Image.Image, name: str) -> None:
    """As bulk work, the server and evaluation run them: of one size and of several."""
    predictor = predictors[name]
    images = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.resize((60, 90))]
    queries = [Query.prepare(predictor.processor, each, PHRASES[:2]) for each in images]
    outputs = run_queries(predictor.model, queries)
    for each, output in zip(images, outputs, strict=True):
        sizes = [each.size[::-1]] * 2
        for one, answer in zip(
            phrase_outputs(output, sizes, predictor.processor), predictor.predict(each, PHRASES[:2]), strict=True
        ):
            np.testing.assert_allclose(one.logits[0].sigmoid().numpy(), answer.probability, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(
    models: dict[str, str], predictors: dict[str, ReferSamPredictor], image: Image.Image, name: str, dtype: str
) -> None:
    predictor = refersam.load_predictor(models[name], device="cpu", dtype=dtype)
    assert predictor.model.dtype == getattr(torch, dtype)
    for one, other in zip(predictor.predict(image, PHRASES), predictors[name].predict(image, PHRASES), strict=True):
        assert one.mask.shape == other.mask.shape
        assert one.score == pytest.approx(other.score, abs=0.15)


@pytest.mark.parametrize("name", ["grounded-sam", "sam3"])
def test_a_higher_threshold_finds_nothing(
    predictors: dict[str, ReferSamPredictor], image: Image.Image, name: str
) -> None:
    found = next(answer for answer in predictors[name].predict(image, PHRASES) if not answer.no_target)
    assert found.area
    again = predictors[name].predict(image, found.phrase, no_target_threshold=min(1, found.score + 0.01))
    assert again.no_target
    assert not again.area


def test_a_phrase_is_cut_where_the_model_stops_reading(
    predictors: dict[str, ReferSamPredictor], image: Image.Image
) -> None:
    for name in NAMES:
        answer = predictors[name].predict(image, "the dog " * 150)
        assert answer.left_out.strip().endswith("dog"), name


def test_names() -> None:
    """Aliases, Hub ids, and both parts of Grounded SAM."""
    for family in FAMILIES:
        names = tuple(each.repository for each in family.weights)
        assert find_published(family.alias).names == names
        assert find_published(names[0]).names == names
    assert find_published("grounded-sam=a/b+c").names == ("a/b", "c")
    assert find_published("grounded-sam=a/b").names == ("a/b", "facebook/sam-vit-base")
    assert find_published("clipseg=folder").names == ("folder",)
    assert find_published("./clipseg") is None
    for name in ("grounded-sam=", "grounded-sam=a+", "grounded-sam=a+b+c", "clipseg=", "clpseg=a"):
        with pytest.raises(CheckpointError, match=r"clipseg|grounded-sam"):
            find_published(name)


def test_an_unknown_alias_lists_the_known_ones(run: Callable[..., SimpleNamespace], image: Image.Image) -> None:
    result = run("info", "clipsegg")
    assert result.code == 1
    assert "clipseg, grounded-sam, sam3" in result.err
    assert "did you mean clipseg?" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_missing_weights(models: dict[str, str], tmp_path: Path) -> None:
    """Pickled weights are not read."""
    (tmp_path / "config.json").write_text((Path(models["clipseg"]) / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(CheckpointError, match=r"has no weights: model.safetensors is expected"):
        refersam.load_predictor(tmp_path)


def test_weights_that_do_not_fit(models: dict[str, str], tmp_path: Path) -> None:
    for file in Path(models["clipseg"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = Path(models["sam"]) / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match="do not fit their configuration"):
        refersam.load_predictor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        refersam.load_predictor(tmp_path)


@pytest.mark.parametrize(("name", "file"), [("clipseg", "preprocessor_config.json"), ("sam3", "processor_config.json")])
def test_an_input_that_would_exhaust_the_machine(models: dict[str, str], tmp_path: Path, name: str, file: str) -> None:
    shutil.copytree(models[name], tmp_path / "model")
    settings = tmp_path / "model" / file
    settings.write_text(settings.read_text().replace('"height": 64', '"height": 1000000'))
    with pytest.raises(CheckpointError, match="height must be 1 to 4096, is 1000000"):
        refersam.load_predictor(tmp_path / "model")


def test_a_model_that_cannot_answer_phrases(models: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=r"of type 'sam', which cannot answer phrases: expected refersam, clips"):
        refersam.load_predictor(models["sam"])


@pytest.mark.parametrize("command", [["export", "onnx", "--out", "model.onnx"], ["train", "smoke", "--out", "run"]])
@pytest.mark.parametrize("name", ["alias", "folder"])
def test_what_is_not_offered(
    run: Callable[..., SimpleNamespace], models: dict[str, str], command: list[str], name: str
) -> None:
    model = "clipseg" if name == "alias" else models["clipseg"]
    option = ["--set", f"model.start_from={model}"] if command[0] == "train" else ["--model", model]
    result = run(*command, *option)
    assert result.code == 1, result.out
    assert "cannot be trained, exported" in result.err
    assert len(result.err.strip().splitlines()) == 1


def raise_for(kind: type[Exception]) -> Callable[..., Any]:
    """Return what stands for a download that the Hub refuses."""
    httpx = pytest.importorskip("httpx")

    def refuse(*_arguments: object, **_options: object) -> None:
        request = httpx.Request("GET", "https://huggingface.co")
        raise kind("refused", response=httpx.Response(403, request=request))

    return refuse


def test_gated_weights(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, image: Image.Image
) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", raise_for(GatedRepoError))
    image.save("image.png")
    result = run("segment", "image.png", "the dog", "--model", "sam3")
    assert result.code == 1
    assert "facebook/sam3 is gated: accept its licence on https://huggingface.co/facebook/sam3" in result.err
    assert "hf auth login" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", raise_for(RepositoryNotFoundError))
    with pytest.raises(CheckpointError, match="No such model: owner/name is neither"):
        refersam.load_predictor("clipseg=owner/name")


def test_without_network(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: Image.Image
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    image.save("image.png")
    result = run("segment", "image.png", "the dog", "--model", "clipseg")
    assert result.code == 1
    assert "CIDAS/clipseg-rd64-refined is not a folder, was never downloaded" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize("alias", ALIASES)
def test_info_of_an_alias_downloads_nothing(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    result = run("info", alias)
    assert result.code == 0, result.err
    family = ALIASES[alias]
    for each in family.weights:
        assert each.repository in result.out
        assert f"about {each.megabytes:,} MB" in result.out
        assert each.licence in result.out
    assert ("hf auth login" in result.out) == any(each.gated for each in family.weights)


def test_info_of_a_folder(run: Callable[..., SimpleNamespace], models: dict[str, str]) -> None:
    result = run("info", models["clipseg"], "--json")
    assert result.code == 0, result.err
    model = transformers.CLIPSegForImageSegmentation.from_pretrained(models["clipseg"])
    assert f'"parameters": {model.num_parameters()}' in result.out


@pytest.mark.slow
def test_sizes_of_the_published_models() -> None:
    """Counted of the published configurations, which are transformers' defaults but for CLIPSeg's."""
    with torch.device("meta"):
        config = transformers.CLIPSegConfig(vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
        models = [
            transformers.CLIPSegForImageSegmentation(config),
            transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig()),
            transformers.SamModel(transformers.SamConfig()),
            transformers.Sam3VideoModel(transformers.Sam3VideoConfig()),
        ]
    counts = [model.num_parameters() for model in models]
    assert counts == [each.parameters for family in FAMILIES for each in family.weights]
