"""Models exported for OpenVINO: compared with the model they come from, run by the predictor, refused if foreign."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refersam import ReferSamPredictor
from refersam.checkpoints.folders import load_model
from refersam.errors import CheckpointError, DataError, DeviceError, MissingExtraError
from refersam.export import comparison
from refersam.export import openvino as export
from refersam.export.graph import ExportError, output_names
from refersam.inference import openvino_model
from refersam.inference.openvino_model import OpenVinoModel, load_openvino

if not (find_spec("openvino") and find_spec("nncf")):
    pytest.skip("openvino and nncf are needed", allow_module_level=True)

FILES = {
    *("config.json", "decoder.bin", "decoder.xml", "image_encoder.bin", "image_encoder.xml", "openvino.json"),
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
}


@pytest.fixture(scope="module")
def original(folder: Path) -> ReferSamPredictor:
    """The model itself, with a guided filter, so that the decoder needs the images."""
    return ReferSamPredictor(*load_model(str(folder), {"guided_filter_radius": 2}))


@pytest.fixture(scope="module")
def exported(folder: Path, original: ReferSamPredictor) -> SimpleNamespace:
    """The folder, exported once for all tests, with its report."""
    path = folder.parent / "exported"
    return SimpleNamespace(path=path, report=export.export_openvino(original.model, original.processor, path))


@pytest.fixture(scope="module")
def predictor(exported: SimpleNamespace) -> ReferSamPredictor:
    """Of the folder."""
    return ReferSamPredictor.from_pretrained(exported.path)


@pytest.fixture
def copied(exported: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the folder, to change."""
    return Path(shutil.copytree(exported.path, tmp_path / "copied"))


def test_the_report_holds_every_comparison(exported: SimpleNamespace) -> None:
    """It was compared when it was written, and nothing else is in the folder."""
    assert {(case.images, case.phrases) for case in exported.report.cases} == {(1, 1), (1, 3), (2, 4)}
    assert all(case.error <= comparison.TOLERANCE for case in exported.report.cases)
    assert {file.name for file in exported.path.iterdir()} == FILES
    assert not list(exported.path.parent.glob(".exported*"))


def test_any_number_of_images_phrases_and_tokens(
    predictor: ReferSamPredictor, original: ReferSamPredictor, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Every output is the model's, with padding in some phrases."""
    with torch.inference_mode():
        expected, got = original.model(*inputs), predictor.model(*inputs)
    for name in output_names(original.model):
        assert comparison.relative_error(expected, got, name) < 1e-4, name


def test_an_image_is_encoded_once(
    predictor: ReferSamPredictor, original: ReferSamPredictor, image: np.ndarray, phrases: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Answers about an encoded image are the model's, and do not run the image encoder again."""
    expected = original.predict(image, phrases)
    encoded = predictor.set_image(image)
    predictor.set_image(255 - image)  # other features, which must not overwrite the first
    monkeypatch.setattr(OpenVinoModel, "encode_image", None)
    for answers in (predictor.predict(encoded, phrases), [predictor.predict(encoded, phrase) for phrase in phrases]):
        for ours, theirs in zip(expected, answers, strict=True):
            np.testing.assert_allclose(theirs.probability, ours.probability, atol=1e-4)
            assert theirs.no_target == ours.no_target


def test_bfloat16_is_the_precision_of_inference(
    exported: SimpleNamespace, predictor: ReferSamPredictor, image: np.ndarray
) -> None:
    """The precision reaches OpenVINO, and probabilities move by its rounding only."""
    rounded = ReferSamPredictor.from_pretrained(exported.path, dtype="bfloat16")
    (request, _) = rounded.model._requests
    assert request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
    exact = predictor.predict(image, "star").probability
    assert np.abs(rounded.predict(image, "star").probability - exact).mean() < 0.05


def test_int8_agrees_and_is_smaller(
    exported: SimpleNamespace, original: ReferSamPredictor, image: np.ndarray, phrases: list[str], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Products are in int8, masks agree, and NNCF prints nothing."""
    samples = [(np.roll(image, shift, axis=0), phrases) for shift in range(9)]
    report = export.export_openvino(original.model, original.processor, tmp_path / "int8", calibration=samples)
    assert capfd.readouterr().out == ""
    assert report.quantized > 8
    assert report.agreement > export.LEAST_AGREEMENT
    assert report.megabytes < exported.report.megabytes
    model, processor = load_openvino(tmp_path / "int8")
    inputs = processor(images=image, text=phrases)
    with torch.inference_mode():
        expected, got = original.model(**inputs).mask_logits, model(**inputs).mask_logits
    assert not torch.allclose(expected, got, atol=1e-4)
    assert float((expected - got).square().mean().sqrt() / expected.std()) < 0.2


def test_masks_that_differ_are_not_written(
    exported: SimpleNamespace, original: ReferSamPredictor, copied: Path, image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither graphs of another model nor int8 with other masks take the place of an earlier export."""
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    openvino = openvino_model.import_openvino("")
    graphs = [openvino.Core().read_model(exported.path / f"{name}.xml") for name in openvino_model.GRAPHS]
    monkeypatch.setattr(export, "convert", lambda *_: graphs)
    monkeypatch.setattr(export, "quantize", lambda *_: (graphs, 1))
    monkeypatch.setattr(export, "mask_agreement", lambda *_: 0.5)
    with pytest.raises(ExportError, match=r"overlap with the model's by 0\.500 only"):
        export.export_openvino(original.model, original.processor, copied, calibration=[(image, ["star"])])
    monkeypatch.setattr(comparison, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="differs from the model by"):
        export.export_openvino(original.model, original.processor, copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


def test_other_files_are_left_alone(original: ReferSamPredictor, tmp_path: Path) -> None:
    """A folder with something else in it is not replaced; an empty calibration is an error."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no earlier export"):
        export.export_openvino(original.model, original.processor, tmp_path)
    with pytest.raises(ValueError, match="there are none"):
        export.export_openvino(original.model, original.processor, tmp_path / "new", calibration=[])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_commands_take_the_folder(
    exported: SimpleNamespace, folder: Path, run: Callable[..., SimpleNamespace], image: np.ndarray
) -> None:
    """segment answers; info describes it as the model; export names the model that is needed."""
    Image.fromarray(image).save("noise.png")
    result = run("segment", "noise.png", "star", "--model", exported.path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["phrase"] == "star"
    told, model = (json.loads(run("info", path, "--json").out) for path in (exported.path, folder))
    assert all(told[key] == model[key] for key in ("text_encoder", "image_encoder", "heads", "input_size", "domain"))
    assert told["parameters"] == {"total": model["parameters"]["total"]}
    assert told["dtypes"]["float32"] > 0.9 * model["parameters"]["total"]
    result = run("export", "onnx", "--model", exported.path, "--out", "model.onnx")
    assert result.code != 0
    assert "was exported for OpenVINO" in result.err


def test_the_command_calibrates_on_images(
    folder: Path, run: Callable[..., SimpleNamespace], image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of images, or own data with phrases; wrong options are refused before any work."""
    from refersam.cli.export import CALIBRATION_PHRASES

    calls: list[Any] = []

    def write(*_: object, calibration: Any) -> comparison.ExportReport:
        calls.append(calibration)
        return comparison.ExportReport((), 1.0, 5, 0.99)

    monkeypatch.setattr(export, "export_openvino", write)
    Path("images").mkdir()
    Image.fromarray(image).save("images/noise.png")
    Path("images/list.jsonl").write_text('{"image": "noise.png", "phrase": "star"}\n')
    common = ("export", "openvino", "--model", folder, "--out", "new")
    for images in ("images", "images/list.jsonl"):
        result = run(*common, "--int8", "--calibration", images)
        assert result.code == 0, result.err
        assert "5 products are in int8" in result.out
    Path("images/list.jsonl").rename("images/train.jsonl")
    assert run(*common, "--int8", "--calibration", "images").code == 0
    path = str(Path("images/noise.png"))
    assert calls == [[(path, CALIBRATION_PHRASES)], [(path, ("star",))], [(path, ("star",))]]
    assert run(*common, "--int8").code == 2
    assert run(*common, "--calibration", "images").code == 2


@pytest.mark.parametrize(("what", "value"), [("device", "cuda"), ("dtype", "float16")])
def test_what_the_folder_cannot_do(exported: SimpleNamespace, what: str, value: str) -> None:
    """Devices other than the CPU, and a precision that OpenVINO would pass over."""
    with pytest.raises(DeviceError, match="exported for OpenVINO"):
        ReferSamPredictor.from_pretrained(exported.path, **{what: value})


def swap_graphs(folder: Path) -> None:
    """Each graph with its weights under the other's name."""
    for suffix in (".xml", ".bin"):
        first, second = (folder / f"{name}{suffix}" for name in openvino_model.GRAPHS)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)


def rewrite(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Changes a text in a file."""
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def link(folder: Path) -> None:
    """Weights outside the folder."""
    (folder / "decoder.bin").rename(folder.parent / "elsewhere.bin")
    (folder / "decoder.bin").symlink_to(folder.parent / "elsewhere.bin")


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "decoder.bin").unlink(), r"decoder\.bin is missing"),
    "a link": (link, "or a link"),
    "no graph": (lambda folder: (folder / "decoder.xml").write_bytes(b"\x89PNG"), "not a graph of OpenVINO"),
    "cut weights": (lambda folder: (folder / "decoder.bin").write_bytes(b"1234"), "not a graph of OpenVINO"),
    "an unknown operator": (rewrite("decoder.xml", 'type="MatMul"', 'type="Evil"'), "not a graph of OpenVINO"),
    "swapped graphs": (swap_graphs, "other inputs and outputs"),
    "no settings": (lambda folder: (folder / "openvino.json").write_text("[]"), r"openvino\.json cannot be read"),
    "another format": (rewrite("openvino.json", '"format": 1', '"format": 9'), "is of another format"),
    "another model": (rewrite("config.json", '"refersam"', '"bert"'), "is a model of type"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no processor"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_foreign_folder_is_refused(copied: Path, name: str) -> None:
    """In one sentence, before it runs."""
    edit, sentence = EDITS[name]
    edit(copied)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_openvino(copied)
    assert "\n" not in str(caught.value)


def test_loops_are_refused(exported: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators of the list, one of which the graphs hold here, so that the work is bounded."""
    assert {"Loop", "TensorIterator", "If"} <= openvino_model.REFUSED_OPERATORS
    monkeypatch.setattr(openvino_model, "REFUSED_OPERATORS", {"MatMul"})
    with pytest.raises(CheckpointError, match="holds MatMul"):
        load_openvino(exported.path)


def test_nothing_is_sent_over_the_network() -> None:
    """OpenVINO and NNCF find no package of usage statistics."""
    code = """
import sys
from refersam.inference.openvino_model import import_openvino
import_openvino("A test").convert_model
import nncf
print(sys.modules["openvino_telemetry"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "None"


def test_without_openvino_the_extra_is_named(exported: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\.\[openvino\]"):
        load_openvino(exported.path)
