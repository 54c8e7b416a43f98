"""Exported models: compared with the model they come from, run by the same predictor, and refused when foreign."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from refersam import ReferSamPredictor
from refersam.checkpoints.folders import load_model
from refersam.errors import CheckpointError, DataError, DeviceError, MissingExtraError, PromptError, ReferSamError
from refersam.export import comparison
from refersam.export import onnx as export
from refersam.export.graph import ExportError, output_names
from refersam.inference.onnx_model import OnnxModel, load_onnx, read_contents
from refersam.model.attention import AttentionProjections
from refersam.model.refersam import ReferSamOutput
from refersam.model.spatial_prior import MapNorm

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(folder: Path, original: ReferSamPredictor) -> SimpleNamespace:
    """The file, exported once for all tests, with its report."""
    path = folder.parent / "small.onnx"
    report = export.export_onnx(original.model, original.processor, path)
    return SimpleNamespace(path=path, report=report)


@pytest.fixture(scope="module")
def predictor(exported: SimpleNamespace) -> ReferSamPredictor:
    """Of the file."""
    return ReferSamPredictor.from_pretrained(exported.path, device="cpu")


def test_clicks_are_refused(predictor: ReferSamPredictor, image: np.ndarray) -> None:
    """In one sentence, with the phrase and afterwards."""
    result = predictor.predict(image, "star")
    with pytest.raises(PromptError, match="exported without clicks: load the model that it was exported from"):
        predictor.predict(image, "star", points=[(3, 4)])
    with pytest.raises(PromptError, match="exported without clicks"):
        predictor.refine(result, box=(1, 2, 30, 40))


def test_the_file_keeps_the_domain(exported: SimpleNamespace, predictor: ReferSamPredictor) -> None:
    """When it is loaded, and when its content is read."""
    assert predictor.domain == read_contents(exported.path)[0].config.domain == "chest X-rays"


# ------------------------------------------------------------------------------------------------------------- graph


def test_reassociated_attention_is_part_of_the_graph(exported: SimpleNamespace, original: ReferSamPredictor) -> None:
    """Both forms are exported, so both are compared below."""
    attentions = [part for part in original.model.modules() if isinstance(part, AttentionProjections)]
    forms = {part.reassociated_in_export for part in attentions}
    assert forms == {False, True}


def test_any_number_of_images_phrases_and_tokens(
    predictor: ReferSamPredictor, original: ReferSamPredictor, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Every output is the model's, with padding in some phrases."""
    with torch.inference_mode():
        expected, got = original.model(*inputs), predictor.model(*inputs)
    for name in output_names(original.model):
        assert comparison.relative_error(expected, got, name) < 1e-4, name
    assert got.coarse_mask_logits is None


@pytest.mark.slow
def test_masks_along_edges_of_images_of_any_size(folder: Path, tmp_path: Path) -> None:
    """The guided filter is part of the graph; every comparison is with the model's own."""
    model, processor = load_model(str(folder), {"guided_filter_radius": 2})
    plain, _ = load_model(str(folder))
    report = export.export_onnx(model, processor, tmp_path / "guided.onnx", any_size=True)
    assert max(case.error for case in report.cases) < 1e-4
    loaded = ReferSamPredictor.from_pretrained(tmp_path / "guided.onnx", device="cpu").model
    inputs = (torch.randn(2, 3, 96, 160), torch.randint(5, 90, (4, 6)))
    with torch.inference_mode():
        expected, other, got = (each(*inputs).mask_logits for each in (model, plain, loaded))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert (got - other).abs().max() > 0.1 * other.abs().max()


def test_the_file_says_nothing_of_the_machine(exported: SimpleNamespace) -> None:
    """No path of where it was made."""
    assert str(Path(export.__file__).parent).encode() not in exported.path.read_bytes()


def test_the_report_holds_every_comparison(exported: SimpleNamespace) -> None:
    """It was compared when it was written."""
    assert {(case.images, case.phrases) for case in exported.report.cases} == {(1, 1), (1, 3), (2, 4)}
    assert all(case.error <= comparison.TOLERANCE for case in exported.report.cases)
    assert exported.report.megabytes == pytest.approx(exported.path.stat().st_size / 1e6)
    assert [file.name for file in exported.path.parent.iterdir() if file.suffix == ".onnx"] == ["small.onnx"]


def test_an_error_at_a_single_place_is_seen() -> None:
    """Of a million places, by a little more than the tolerance; and NaN."""
    values = torch.randn(1, 1000, 1000)

    def error(share: float) -> float:
        changed = values.clone()
        changed[0, 7, 7] += share * values.abs().max()
        return comparison.relative_error(
            ReferSamOutput(mask_logits=values), ReferSamOutput(mask_logits=changed), "mask_logits"
        )

    assert error(0.9e-4) < comparison.TOLERANCE < error(1.1e-4)
    assert error(float("nan")) == float("inf")


def test_norms_of_large_maps_keep_their_digits(tmp_path: Path) -> None:
    """ONNX Runtime's own norm of a group loses four of them, adding up millions of numbers one after the other."""
    import onnxruntime

    torch.manual_seed(0)
    norm = MapNorm(64).eval()
    image = torch.randn(1, 64, 224, 224) + 0.5
    program = torch.export.export(norm, (image,))
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "norm.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "norm.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    expected = norm.double()(image.double()).detach()
    assert (torch.from_numpy(got) - expected).abs().max() < 2e-6 * expected.abs().max()


def test_an_export_that_differs_is_not_written(
    original: ReferSamPredictor, exported: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph of another model in its place."""
    monkeypatch.setattr(export, "trace", lambda *_: SimpleNamespace(metadata_props={}))

    def save_another(_graph: object, path: Path) -> None:
        model = onnx.load(exported.path)
        weight = next(t for t in model.graph.initializer if t.name.endswith("context_tokens"))
        weight.raw_data = np.zeros(weight.dims, np.float32).tobytes()
        onnx.save(model, path)

    monkeypatch.setattr(export, "_save", save_another)
    with pytest.raises(ExportError, match="differs from the model by"):
        export.export_onnx(original.model, original.processor, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


def test_a_second_export_to_a_file_is_refused(
    original: ReferSamPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first writes: weights beside a graph would be of two models."""
    path, again = tmp_path / "model.onnx", []

    def meanwhile(*_: object) -> None:
        if not again:
            again.append(True)
            with pytest.raises(DataError, match=r"^Another process is at work in .*model\.onnx"):
                export.export_onnx(original.model, original.processor, path)
        raise ExportError("enough")

    monkeypatch.setattr(export, "trace", lambda *_: SimpleNamespace(metadata_props={}))
    monkeypatch.setattr(export, "_save", meanwhile)
    with pytest.raises(ExportError, match="enough"):
        export.export_onnx(original.model, original.processor, path)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- predictor


def test_the_predictor_answers_alike(
    predictor: ReferSamPredictor, original: ReferSamPredictor, image: np.ndarray, phrases: list[str]
) -> None:
    """Masks, probabilities, scores and decisions, for an image and for one that was looked at before."""
    expected = original.predict(image, phrases)
    seen = predictor.set_image(image)
    for answers in (predictor.predict(image, phrases), predictor.predict(seen, phrases)):
        for ours, theirs in zip(expected, answers, strict=True):
            np.testing.assert_allclose(theirs.probability, ours.probability, atol=1e-4)
            assert theirs.score == pytest.approx(ours.score, abs=1e-4)
            assert theirs.no_target == ours.no_target
            assert (theirs.mask != ours.mask).mean() < 0.01


def test_it_needs_images_of_the_right_shape(predictor: ReferSamPredictor) -> None:
    """The same errors as the model's."""
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="multiples of 32"):
        predictor.model(torch.zeros(1, 3, 63, 96), ids)
    with pytest.raises(ValueError, match="takes images of 64 x 96 px"):
        predictor.model(torch.zeros(1, 3, 96, 64), ids)
    with pytest.raises(ValueError, match="not both or neither"):
        predictor.model(None, ids)
    with pytest.raises(ReferSamError, match="could not run"):
        predictor.model(torch.zeros(1, 3, 64, 96), ids + 10**6)


def test_segment_and_evaluate_take_the_file(
    exported: SimpleNamespace, run: Callable[..., SimpleNamespace], image: np.ndarray, tmp_path: Path
) -> None:
    """From the command line."""
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "noise.png")
    result = run("segment", "noise.png", "star", "--model", exported.path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["phrase"] == "star"
    assert (
        run("data", "scenes", "--out", "data", "--split", "val", "--count", 1, "--width", 64, "--height", 64).code == 0
    )
    result = run("evaluate", "--data-root", "data", "--dataset", "sceneref", "--split", "val", "--out", "results",
                 "--model", exported.path)  # fmt: skip
    assert result.code == 0, result.err


@pytest.mark.parametrize(("what", "value"), [("device", "mps"), ("dtype", "bfloat16")])
def test_what_a_file_cannot_do(exported: SimpleNamespace, what: str, value: str) -> None:
    """Devices that ONNX Runtime lacks, dtypes that were not exported."""
    with pytest.raises(DeviceError, match="exported model"):
        ReferSamPredictor.from_pretrained(exported.path, **{what: value})


def test_info_describes_the_file(
    exported: SimpleNamespace, folder: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """As the model that was exported, but for what only the file has; an invalid file is a sentence."""
    found = run("info", exported.path, "--json")
    assert (found.code, found.err) == (0, "")
    told, model = json.loads(found.out), json.loads(run("info", folder, "--json").out)
    same = (
        "preset",
        "text_encoder",
        "image_encoder",
        "left_out",
        "upsampling",
        "heads",
        "input_size",
        "max_text_tokens",
    )
    assert {key: told[key] for key in same} == {key: model[key] for key in same}
    assert told["parameters"] == {"total": model["parameters"]["total"]}
    assert told["dtypes"]["float32"] > 0.9 * model["parameters"]["total"]
    assert told["file_bytes"] == exported.path.stat().st_size
    assert "64 px" in run("info", exported.path).out

    def unknown_format(model: Any) -> None:
        model.graph.initializer[0].data_type = 99

    foreign = change(exported.path, tmp_path / "foreign.onnx", unknown_format)
    assert "unknown dtype" in run("info", foreign).err
    with pytest.raises(CheckpointError):
        load_onnx(foreign)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    assert "is not" in run("info", broken).err


# ----------------------------------------------------------------------------------------------------- foreign files


def change(path: Path, target: Path, edit: Callable[[Any], object]) -> Path:
    """A copy of an exported file with something changed."""
    model = onnx.load(path)
    edit(model)
    target.write_bytes(model.SerializeToString())
    return target


def external(location: str) -> Callable[[Any], None]:
    """Makes the first weight lie in another file."""

    def edit(model: Any) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)

    return edit


EDITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no settings": (lambda model: model.ClearField("metadata_props"), "not a ReferSAM model"),
    "a loop": (lambda model: model.graph.node.add(op_type="Loop"), "holds Loop"),
    "foreign operators": (lambda model: model.opset_import.add(domain="evil", version=1), "holds evil"),
    "a function": (lambda model: model.functions.add(name="mine"), "holds mine"),
    "weights elsewhere": (external("../../etc/passwd"), "in a file beside it"),
    "weights anywhere": (external("/etc/passwd"), "in a file beside it"),
    "weights missing": (external("weights.bin"), "is missing"),
    "another graph": (lambda model: model.graph.node.pop(), "cannot load"),
    "other outputs": (lambda model: model.graph.output.pop(0), "not a ReferSAM model's way"),
    "bad settings": (
        lambda model: [setattr(e, "value", "{") for e in model.metadata_props if e.key == "config.json"],
        "settings inside",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_asks_for_more_is_refused(exported: SimpleNamespace, tmp_path: Path, name: str) -> None:
    """In one sentence, before it runs."""
    edit, sentence = EDITS[name]
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_onnx(change(exported.path, tmp_path / "foreign.onnx", edit))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "not a ReferSAM model"), (b"\x89PNG and so on", "not an ONNX file"), (None, "No such")],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """Empty, an image, none at all."""
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        load_onnx(path)


def test_without_onnx_the_extra_is_named(exported: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"\.\[onnx\]"):
        load_onnx(exported.path)


def test_the_command_refuses_what_it_cannot_write(
    run: Callable[..., SimpleNamespace], exported: SimpleNamespace
) -> None:
    """Wrong names, said before any work."""
    assert run("export", "onnx", "--out", "model.pt").code == 2
    assert run("export", "onnx", "--out", "model.onnx", "--model", exported.path).code == 2


def test_a_loaded_file_is_called_like_the_model(predictor: ReferSamPredictor, original: ReferSamPredictor) -> None:
    """What reports say of it."""
    assert isinstance(predictor.model, OnnxModel)
    assert predictor.model.num_parameters() == original.model.num_parameters()
    assert predictor.model.config.to_dict() == original.model.config.to_dict()
    assert predictor.processor.image_processor.size == {"height": 64, "width": 96}


def test_the_example_without_refersam(
    exported: SimpleNamespace, original: ReferSamPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/export.md, its one block of Python."""
    from PIL import Image

    code = (Path(__file__).parents[2] / "docs" / "export.md").read_text().split("```python\n")[1].split("```")[0]
    assert "refersam" not in code
    assert "torch" not in code
    image = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / "model.onnx").symlink_to(exported.path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    for mask, result in zip(
        names["masks"], original.predict(image, ["the dog", "the red car on the left"], 0.5, 0.0), strict=True
    ):
        assert mask.shape == (128, 192)
        assert (mask != result.mask).mean() < 0.01
