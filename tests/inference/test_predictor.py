"""Predicting, what a result can do, and what loading refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file

from refersam import ReferSamPredictor, Segmentation
from refersam.checkpoints.folders import load_model
from refersam.errors import CheckpointError, DeviceError, ImageError, PhraseError, PromptError
from refersam.inference.answers import confidence, target_probability
from refersam.inference.devices import resolve_device, resolve_dtype, warn_if_emulated
from refersam.inference.prompts import Prompts, warn_untrained
from refersam.model.refersam import PhraseFeatures, ReferSamOutput

PHRASES = ["the red circle on the left", "star", "a zebra, far away"]


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """The random tiny model."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


@pytest.fixture
def image() -> Image.Image:
    """53 wide, 37 high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))


def result_of(*rows: str, **changes: Any) -> Segmentation:
    """A result whose mask is '#' in `rows`, over a grey image."""
    mask = np.array([[character == "#" for character in row] for row in rows])
    image = Image.new("RGB", (mask.shape[1], mask.shape[0]), (100, 100, 100))
    result = Segmentation("red", mask, mask.astype(np.float32), 0.5, no_target=False, image=image)
    return replace(result, **changes)


# ------------------------------------------------------------------------------------------------------- predictions


def test_a_result_has_the_images_own_size(predictor: ReferSamPredictor, image: Image.Image) -> None:
    """Types, shapes and ranges."""
    result = predictor.predict(image, "the red circle", no_target_threshold=0.0)
    assert isinstance(result, Segmentation)
    assert (result.mask.shape, result.mask.dtype) == ((37, 53), np.bool_)
    assert (result.probability.shape, result.probability.dtype) == ((37, 53), np.float32)
    assert 0 <= result.probability.min() <= result.probability.max() <= 1
    assert 0 <= result.score <= 1
    assert isinstance(result.score, float)
    assert result.no_target is False
    assert (result.phrase, result.image.size) == ("the red circle", (53, 37))
    assert result.area == result.mask.sum()


def test_one_phrase_equals_the_same_phrase_in_a_list(predictor: ReferSamPredictor, image: Image.Image) -> None:
    """Neither the company nor the padding changes an answer."""
    together = predictor.predict(image, PHRASES)
    assert [result.phrase for result in together] == PHRASES
    for phrase, result in zip(PHRASES, together, strict=True):
        alone = predictor.predict(image, phrase)
        np.testing.assert_allclose(result.probability, alone.probability, atol=1e-5)
        assert result.score == pytest.approx(alone.score, abs=1e-5)
    assert not np.allclose(together[0].probability, together[1].probability, atol=1e-5)  # the phrase does matter
    assert isinstance(predictor.predict(image, ("star",)), list)


def test_unknown_parts_of_a_phrase(predictor: ReferSamPredictor, image: Image.Image) -> None:
    """A symbol changes no answer and is named; in JSON only where there is one."""
    plain, starred, foreign = predictor.predict(image, ["the star", "the star \u2b50", "the \u8d64 star"])
    np.testing.assert_array_equal(plain.probability, starred.probability)
    assert plain.score == starred.score
    assert (plain.unknown, starred.unknown, foreign.unknown) == ((), ("\u2b50",), ("\u8d64",))
    assert "unknown" not in plain.as_dict()
    assert json.loads(json.dumps(starred.as_dict()))["unknown"] == ["\u2b50"]
    assert starred.phrase == "the star \u2b50"


def test_a_list_is_one_batch_over_one_image(
    predictor: ReferSamPredictor, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One forward pass, one image, as many phrases as asked."""
    calls = []
    encode = predictor.model.encode_phrases

    def recorded(**inputs: torch.Tensor) -> PhraseFeatures:
        calls.append((len(inputs["pixel_values"]), len(inputs["input_ids"])))
        return encode(**inputs)

    monkeypatch.setattr(predictor.model, "encode_phrases", recorded)
    predictor.predict(image, PHRASES)
    assert calls == [(1, 3)]


def test_a_image_looked_at_before_gives_the_same_answers(
    predictor: ReferSamPredictor, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked afterwards, and without looking at it again."""
    asked = ["the red star", "a large circle on the left", "nothing"]
    expected = predictor.predict(image, asked)
    encoded = predictor.set_image(image)
    monkeypatch.setattr(predictor.model, "encode_image", lambda *_: pytest.fail("looked again"))
    together = predictor.predict(encoded, asked)
    one_by_one = [predictor.predict(encoded, phrase) for phrase in asked]
    for results in (together, one_by_one):
        for ours, theirs in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-4)
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            assert (ours.no_target, ours.image.size) == (theirs.no_target, theirs.image.size)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="Another predictor looked at this image: call set_image"):
        ReferSamPredictor.from_pretrained(device="cpu").predict(encoded, "the star")


def test_clicks_refine_a_result(
    predictor: ReferSamPredictor, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the decoder runs; earlier clicks and the earlier mask count; earlier results stay as they are."""
    results = predictor.predict(image, PHRASES)
    monkeypatch.setattr(predictor.model, "encode_phrases", lambda **_: pytest.fail("encoded again"))
    decode, seen = predictor.model.decode, []
    monkeypatch.setattr(predictor.model, "decode", lambda *a, **prompts: seen.append(prompts) or decode(*a, **prompts))
    first = predictor.refine(results[1], points=[(52, 0)])
    second = predictor.refine(first, points=[(10, 20)], point_labels=[0], box=(0, 0, 26.5, 37))
    predictor.refine(results[1], points=[(3, 3)])
    assert first.prompts == Prompts(((52, 0),), (1,))
    assert second.prompts == Prompts(((52, 0), (10, 20)), (1, 0), (0, 0, 26.5, 37))
    assert (first.phrase, second.phrase, first.image) == (PHRASES[1], PHRASES[1], image)
    assert not np.allclose(first.probability, results[1].probability, atol=1e-6)
    one, two, undone = seen
    scale_x, scale_y = 64 / 53, 64 / 37
    expected = [[52.5 * scale_x - 0.5, 0.5 * scale_y - 0.5], [10.5 * scale_x - 0.5, 20.5 * scale_y - 0.5]]
    torch.testing.assert_close(two["input_points"], torch.tensor([expected]))
    assert two["input_labels"].tolist() == [[1, 0]]
    torch.testing.assert_close(two["input_boxes"], torch.tensor([[-0.5, -0.5, 31.5, 63.5]]))
    assert not torch.equal(one["mask_prompt"], two["mask_prompt"])
    assert torch.equal(one["mask_prompt"], undone["mask_prompt"])
    monkeypatch.undo()
    with pytest.raises(PromptError, match="A click or a box is needed"):
        predictor.refine(first)
    with pytest.raises(ValueError, match="of another predictor"):
        ReferSamPredictor.from_pretrained(device="cpu").refine(first, points=[(1, 1)])


def test_clicks_with_the_phrase(
    predictor: ReferSamPredictor, image: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    """In the first pass, for an image or an encoded one; an object that the user shows is a target."""
    warn_untrained.cache_clear()
    results = [
        predictor.predict(source, "star", points=[(5, 6)], box=(1, 2, 30, 31), no_target_threshold=1.0)
        for source in (image, predictor.set_image(image))
    ]
    np.testing.assert_allclose(results[0].probability, results[1].probability, atol=1e-5)
    assert not results[0].no_target
    assert predictor.predict(image, "star", points=[(5, 6)], point_labels=[0], no_target_threshold=1.0).no_target
    assert not np.allclose(predictor.predict(image, "star").probability, results[0].probability, atol=1e-6)
    assert caplog.text.count("was not trained with clicks") == 1
    with pytest.raises(PromptError, match="need one phrase, but there are 3"):
        predictor.predict(image, PHRASES, points=[(5, 6)])


def test_every_source_of_a_image(predictor: ReferSamPredictor, image: Image.Image, tmp_path: Path) -> None:
    """Path, str, bytes, array and PIL image give the same."""
    path = tmp_path / "an image.png"
    image.save(path)
    expected = predictor.predict(image, "star").probability
    for source in (path, str(path), path.read_bytes(), np.asarray(image)):
        np.testing.assert_array_equal(predictor.predict(source, "star").probability, expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (1000, 3)])
def test_extreme_images(predictor: ReferSamPredictor, size: tuple[int, int]) -> None:
    """One pixel, and aspect ratios of 333."""
    result = predictor.predict(Image.new("RGB", size, "red"), "star")
    assert result.mask.shape == size[::-1]


def test_the_mask_is_where_the_probability_reaches_the_threshold(
    predictor: ReferSamPredictor, image: Image.Image
) -> None:
    """Inclusive: at a probability that occurs, its own pixel is in."""
    probability = predictor.predict(image, "star").probability
    for threshold in (0.0, 0.5, float(np.median(probability)), float(probability.max())):
        result = predictor.predict(image, "star", threshold, 0.0, min_component_fraction=0.0)
        np.testing.assert_array_equal(result.mask, probability >= threshold)
        assert result.mask.any() or threshold == 0.5
    assert predictor.predict(image, "star", threshold=0.0, no_target_threshold=0.0).mask.all()


def test_no_target_empties_the_mask_and_nothing_else(predictor: ReferSamPredictor, image: Image.Image) -> None:
    """Forced by the threshold; the probability is that of before the decision."""
    found = predictor.predict(image, "star", threshold=0.0, no_target_threshold=0.0)
    absent = predictor.predict(image, "star", threshold=0.0, no_target_threshold=1.0)
    assert (found.no_target, absent.no_target) == (False, True)
    assert found.mask.all()
    assert not absent.mask.any()
    assert (absent.area, absent.box) == (0, None)
    np.testing.assert_array_equal(found.probability, absent.probability)
    assert found.score == absent.score


@pytest.mark.parametrize("name", ["threshold", "no_target_threshold", "min_component_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_thresholds_out_of_range(predictor: ReferSamPredictor, image: Image.Image, name: str, value: float) -> None:
    """The sentence names the one that is wrong."""
    with pytest.raises(ValueError, match=rf"^{name} must be a number from 0 to 1, but is {value}"):
        predictor.predict(image, "star", **{name: value})


def test_wrong_inputs(predictor: ReferSamPredictor, image: Image.Image) -> None:
    """No phrase, an empty one, no image."""
    with pytest.raises(PhraseError, match="list is empty"):
        predictor.predict(image, [])
    with pytest.raises(PhraseError, match="at least one word"):
        predictor.predict(image, ["star", " "])
    with pytest.raises(ImageError, match="No such file"):
        predictor.predict("nowhere.png", "star")
    with pytest.raises(ImageError, match="path, bytes, a PIL image or a numpy array"):
        predictor.predict(torch.zeros(3, 4, 4), "star")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes(tiny_model_folder: Path, predictor: ReferSamPredictor, image: Image.Image, dtype: str) -> None:
    """Half the memory, nearly the same answer, results in float32."""
    half = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in half.model.parameters()} == {resolve_dtype(dtype)}
    result = half.predict(image, "star")
    assert result.probability.dtype == np.float32
    np.testing.assert_allclose(result.probability, predictor.predict(image, "star").probability, atol=0.1)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_dtypes_without_instructions(
    dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU that has to compute them in software says so; one that need not, another device and float32 do not."""
    known = f"_is_mkldnn_{name}_supported"
    monkeypatch.setattr(torch.ops.mkldnn, known, lambda: True)
    warn_if_emulated(torch.device("cpu"), dtype)
    monkeypatch.setattr(torch.ops.mkldnn, known, lambda: False)
    warn_if_emulated(torch.device("cuda"), dtype)
    warn_if_emulated(torch.device("cpu"), torch.float32)
    assert not caplog.records
    warn_if_emulated(torch.device("cpu"), dtype)
    (record,) = caplog.records
    assert f"no instructions for {str(dtype)[6:]}, which is much slower here than float32" in record.getMessage()


def test_confidence_by_hand() -> None:
    """Predicted IoU times the probability of a target, or the mean probability inside the mask."""
    output = ReferSamOutput(
        mask_logits=torch.zeros(3, 1, 4),
        iou_scores=torch.tensor([0.8, 1.7, -0.3]),  # is cut to [0, 1]
        object_score_logits=torch.tensor([0.0, 100.0, 0.0]),
    )
    probabilities = torch.tensor([[[0.5, 0.9, 0.4, 0.1]], [[0.1, 0.1, 0.1, 0.1]], [[1.0, 1.0, 1.0, 1.0]]])
    torch.testing.assert_close(target_probability(output), torch.tensor([0.5, 1.0, 0.5]))
    torch.testing.assert_close(confidence(output, probabilities, True), torch.tensor([0.4, 1.0, 0.0]))
    # (0.5 + 0.9) / 2 * 0.5; nothing inside; 1 * 0.5
    torch.testing.assert_close(confidence(output, probabilities, False), torch.tensor([0.35, 0.0, 0.5]))
    output.object_score_logits = None
    torch.testing.assert_close(target_probability(output), torch.ones(3))


# ----------------------------------------------------------------------------------------------------------- results


def test_box_and_area_by_hand() -> None:
    """(left, top, right, bottom), right and bottom exclusive."""
    result = result_of(".....", "..##.", "...#.", ".....")
    assert (result.box, result.area) == ((2, 1, 4, 3), 3)
    assert result_of("#..", "...", "..#").box == (0, 0, 3, 3)
    assert result_of("#").box == (0, 0, 1, 1)
    assert (result_of("...").box, result_of("...").area) == (None, 0)


def test_overlay_leaves_pixels_outside_the_mask_untouched() -> None:
    """Tinted inside, outlined at the edge, the image's size."""
    result = result_of(".....", ".###.", ".###.", ".###.", ".....")
    overlay = result.overlay(colour=(200, 0, 100), opacity=0.25)
    assert (overlay.size, overlay.mode) == ((5, 5), "RGB")
    pixels = np.asarray(overlay)
    assert (pixels[~result.mask] == 100).all()
    assert pixels[2, 2].tolist() == [125, 75, 100]  # 0.75 * 100 + 0.25 * colour
    edge = result.mask.copy()
    edge[2, 2] = False
    assert (pixels[edge] == [200, 0, 100]).all()
    assert (np.asarray(result.image) == 100).all()


def test_overlay_of_an_empty_and_of_a_full_mask() -> None:
    """Nothing changes; everything does, with the image's border as the outline."""
    empty = result_of("...", "...")
    np.testing.assert_array_equal(np.asarray(empty.overlay()), np.asarray(empty.image))
    assert (np.asarray(result_of("##", "##").overlay(colour=(1, 2, 3))) == [1, 2, 3]).all()


def test_save_writes_black_and_white(tmp_path: Path) -> None:
    """The folder is made, the path returned, the mask read back."""
    result = result_of(".#", "##")
    path = result.save(tmp_path / "new" / "folder" / "mask.png")
    with Image.open(path) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), [[0, 255], [255, 255]])


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle: the old file is whole, and nothing else lies beside it."""
    path = tmp_path / "mask.png"
    result_of("##").save(path)
    old = path.read_bytes()

    def half(self: Image.Image, file: Any, **_options: Any) -> None:
        file.write(b"half of an image")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space left"):
        result_of("..").save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]


def test_save_into_a_folder_of_that_name_leaves_nothing_behind(tmp_path: Path) -> None:
    """The place is taken by a folder."""
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(OSError, match=r"mask\.png"):
        result_of("#").save(tmp_path / "mask.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]


def test_to_rle_is_what_pycocotools_reads() -> None:
    """Through JSON and back; odd sizes."""
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    rle = json.loads(json.dumps(result_of("#", mask=mask).to_rle()))
    assert rle["size"] == [13, 7]
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert not coco_mask.decode(result_of("...").to_rle()).any()


def test_results_are_compared_and_hashed_as_objects() -> None:
    """A dataclass's own comparison would fail on arrays."""
    one, other = result_of("#"), result_of("#")
    assert one != other
    assert len({one, other}) == 2


# ------------------------------------------------------------------------------------------------ devices and formats


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "", "gpu"])
def test_unknown_devices(device: str) -> None:
    """The sentence lists what there is."""
    with pytest.raises(DeviceError, match=f"Unknown device '{device}': this machine has cpu"):
        resolve_device(device)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on a machine without one; the second of one; meta, which cannot compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", "meta", torch.device("cuda")):
        with pytest.raises(DeviceError, match=f"'{device}' is not there: this machine has cpu"):
            resolve_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device(None) == torch.device("cuda:0")
    with pytest.raises(DeviceError, match="'cuda:1' is not there: this machine has cpu, cuda:0"):
        resolve_device("cuda:1")


def test_the_device_is_checked_before_the_model_is_read() -> None:
    """A wrong device is reported at once, whatever the model."""
    with pytest.raises(DeviceError, match="tpu"):
        ReferSamPredictor.from_pretrained("nowhere", device="tpu")
    with pytest.raises(DeviceError, match="int3"):
        ReferSamPredictor.from_pretrained("nowhere", device="cpu", dtype="int3")


@pytest.mark.parametrize("dtype", ["int3", "int8", "", torch.int64])
def test_unknown_dtypes(dtype: str | torch.dtype) -> None:
    """The sentence lists the three."""
    with pytest.raises(DeviceError, match="choose one of float32, bfloat16, float16"):
        resolve_dtype(dtype)


# ----------------------------------------------------------------------------------------------------------- loading


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Changes fields of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | changes))

    return change


def write(file: str, content: bytes) -> Callable[[Path], None]:
    """Replaces a file."""
    return lambda folder: (folder / file).write_bytes(content) and None


def remove(*files: str) -> Callable[[Path], None]:
    """Removes files."""
    return lambda folder: [(folder / file).unlink() for file in files] and None


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Writes other weights."""

    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def cut_weights(folder: Path) -> None:
    """Keeps a tenth of the file."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 10])


def with_code(folder: Path) -> None:
    """Names Python code of its own wherever transformers would look for it."""
    (folder / "evil.py").write_text(f"open({str(folder / 'pwned')!r}, 'w')\nclass T: pass\n")
    names = {f"Auto{kind}": "evil.T" for kind in ("Config", "Model", "Processor", "ImageProcessor")}
    names["AutoTokenizer"] = ["evil.T", "evil.T"]  # type: ignore[assignment]
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        edit(file, auto_map=names, tokenizer_class="T", processor_class="T")(folder)


WRONG_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (remove("config.json"), "holds no ReferSAM model: a folder with config.json and weights is expected"),
    "BERT": (write("config.json", b'{"model_type": "bert"}'), "is a model of type 'bert', not 'refersam'"),
    "no type": (write("config.json", b"{}"), "is a model of type None, not 'refersam'"),
    "config is a list": (write("config.json", b"[]"), "No model could be read from"),
    "config is no JSON": (write("config.json", b"{"), "No model could be read from .*not a valid JSON file"),
    "config is binary": (write("config.json", b"\xff\x00\x81"), "No model could be read from"),
    "sizes do not fit": (edit("config.json", fusion_num_heads=5), "configuration of .* is not ReferSAM's: .*5 heads"),
    "sizes are text": (
        edit("config.json", fusion_hidden_size="wide"),
        "is not ReferSAM's: fusion_hidden_size should be a valid integer, but is 'wide'",
    ),
    "a gate is text": (
        edit("config.json", injection_gate_init="small"),
        "is not ReferSAM's: injection_gate_init should be a valid number, but is 'small'",
    ),
    "sizes of a part are text": (
        edit("config.json", vision_config={"hidden_size": "wide"}),
        "is not ReferSAM's: vision_config: Field 'hidden_size' expected int, got str",
    ),
    "a misspelt field": (edit("config.json", use_promter=False), "unknown field use_promter, did you mean use_prompt"),
    "no heads": (edit("config.json", fusion_num_heads=0), "is not ReferSAM's"),
    "negative size": (edit("config.json", num_context_tokens=-3), "weights of .* could not be read"),
    "another size": (edit("config.json", num_context_tokens=7), "another shape than its configuration says"),
    "no weights": (remove("model.safetensors"), "weights of .* could not be read: .*no file named model.safetensors"),
    "empty weights": (write("model.safetensors", b""), "weights of .* could not be read"),
    "garbage weights": (write("model.safetensors", b"x" * 999), "weights of .* could not be read"),
    "truncated weights": (cut_weights, "weights of .* could not be read"),
    "missing weights": (
        change_weights(lambda weights: weights.pop("interactor.context_tokens")),
        r"do not fit its configuration: 1 missing \(interactor.context_tokens\)\.",
    ),
    "unexpected weights": (
        change_weights(lambda weights: weights.update({f"spare.{i}": torch.ones(1) for i in range(5)})),
        r"do not fit its configuration: 5 unexpected \(spare.0, spare.1, spare.2 and 2 more\)\.",
    ),
    "no processor": (remove("processor_config.json"), "has no processor"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "has no processor"),
    "broken tokenizer": (write("tokenizer.json", b"{"), "has no processor"),
    "other tokenizer": (write("tokenizer.json", b'{"a": 1}'), "tokenizer.json is missing, or cannot be read"),
    "processor is a list": (write("processor_config.json", b"[]"), "has no processor"),
    "huge input": (
        edit("processor_config.json", image_processor={"size": {"height": 3200000, "width": 32}}),
        "has no processor",
    ),
    "many tokens": (edit("processor_config.json", max_text_tokens=65), "65 tokens per phrase.* has room for 64"),
    "own code": (with_code, "has no processor"),
}


@pytest.mark.parametrize("name", WRONG_FOLDERS)
def test_folders_that_are_refused(
    tiny_model_folder: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence that names the folder; nothing in it is run, nothing asked of the user."""
    spoil, told = WRONG_FOLDERS[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    spoil(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_model(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "pwned").exists()
    assert "[y/N]" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "~/model"])
def test_models_that_do_not_exist(name: str) -> None:
    """Neither a folder nor what could be a Hub id: told without asking the network."""
    with pytest.raises(CheckpointError, match=f"No such model: {re.escape(name)} is neither a folder nor a Hub id"):
        load_model(name)


def test_a_hub_id_without_a_network() -> None:
    """Offline, and never downloaded."""
    with pytest.raises(CheckpointError, match="No such model: nobody/nothing-at-all is not a folder, was never"):
        load_model("nobody/nothing-at-all")


def test_a_checkpoint_file_is_not_a_folder(tmp_path: Path) -> None:
    """The authors' .pth needs converting first."""
    path = tmp_path / "refersam.pth"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"refersam\.pth holds no ReferSAM model: a folder"):
        load_model(str(path))


def test_loading_needs_no_import_of_the_package_itself(tiny_model_folder: Path) -> None:
    """`load_model` alone registers ReferSAM: else transformers warns of an unknown type of model."""
    import subprocess
    import sys

    load = f"load_model({str(tiny_model_folder)!r})"
    code = f"from refersam.checkpoints.folders import load_model; print(type({load}[1]).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("ReferSamProcessor", 0), done.stderr
    assert "to instantiate a model of type" not in done.stderr
