"""The command line as its user meets it: output, files, exit codes, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from pycocotools import mask as coco_mask
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from refersam import ReferSamPredictor, __version__
from refersam.names import answer_name

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """40 wide, 30 high, with a space in its name."""
    path = tmp_path / "my image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return path


def assert_one_sentence(result: SimpleNamespace, code: int, expected_text: str) -> None:
    """The exit code, one line that begins with "Error:" and holds `expected_text`, nothing else, no traceback."""
    assert result.code == code, result
    assert "Traceback" not in result.err
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith("."), lines[0]
    assert re.search(expected_text, lines[0]), lines[0]


def assert_usage(result: SimpleNamespace, expected_text: str) -> None:
    """Code 2, how it is called, and what was wrong."""
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert "Usage: " in result.err
    assert re.search(expected_text, " ".join(result.err.split())), result.err


# ----------------------------------------------------------------------------------------------------- version, help


def test_version(run: Run) -> None:
    """One line."""
    result = run("--version")
    assert (result.code, result.out, result.err) == (0, f"refersam {__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([], ["segment", "train", "data", "convert", "--version", "Exit codes"]),
        (
            ["segment"],
            ["IMAGE", "PHRASE", "--out", "--model", "--device", "--dtype", "--threshold", "--json", "Example"],
        ),
        (["train"], ["RECIPE", "--out", "--set", "--resume", "Example"]),
        (["data"], ["scenes"]),
        (["data", "scenes"], ["--out", "--split", "--count", "--seed", "--width", "--height", "--phrases"]),
        (["convert"], ["official"]),
        (["convert", "official"], ["WEIGHTS", "--out", "--preset", "--text", "--config", "--tokenizer"]),
    ],
)
def test_help(run: Run, command: list[str], options: list[str]) -> None:
    """Every command, with all that it takes."""
    result = run(*command, "--help")
    assert (result.code, result.err) == (0, "")
    for option in options:
        assert option in result.out


def test_help_is_quick() -> None:
    """A new process, without torch."""
    code = "import sys; sys.argv = ['refersam', '--help']\nfrom refersam.cli import app\n"
    code += "try: app()\nexcept SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False False")


def test_no_command_shows_the_help(run: Run) -> None:
    """And counts as wrong use."""
    result = run()
    assert result.code == 2
    assert "segment" in result.out + result.err


# ------------------------------------------------------------------------------------------------------------ segment


def test_segment_prints_a_table_and_writes_files(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """A row for each phrase; mask and overlay for each, nothing else."""
    result = run("segment", image, "the red circle", "star", "--model", tiny_model_folder, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    for word in ("image", "phrase", "score", "box", "area", "ms", "my image.png", "the red circle", "star"):
        assert word in result.out
    assert "Masks and overlays are in out/" in result.out
    assert "photographs" not in result.out  # which is about the bundled model
    names = [answer_name(image, [phrase]) for phrase in ("star", "the red circle")]
    assert [name[:-9] for name in names] == ["my image_star", "my image_the-red-circle"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"{name}_{what}.png" for name in names for what in ("mask", "overlay")
    ]


def test_segment_json(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Valid JSON and nothing else; its masks are those of the files and of the predictor."""
    phrases = ["the red circle", "star"]
    options = ["--threshold", "0.45", "--no-target-threshold", "0", "--model", tiny_model_folder, "--device", "cpu"]
    result = run("segment", image, *phrases, "--json", "--out", "a/b", *options)
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)
    expected = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu").predict(image, phrases, 0.45, 0.0)
    assert [row["phrase"] for row in rows] == phrases
    for row, twin in zip(rows, expected, strict=True):
        assert set(row) == {"phrase", "score", "no_target", "box", "area", "rle", "mask", "overlay"}
        with Image.open(row["mask"]) as opened:
            np.testing.assert_array_equal(np.asarray(opened) == 255, twin.mask)
        np.testing.assert_array_equal(coco_mask.decode(row["rle"]).astype(bool), twin.mask)
        with Image.open(row["overlay"]) as opened:
            np.testing.assert_array_equal(np.asarray(opened), np.asarray(twin.overlay()))
        assert row["score"] == pytest.approx(twin.score, abs=1e-3)
        assert row["box"] == (None if twin.box is None else list(twin.box))
        assert (row["area"], row["no_target"]) == (twin.area, False)


def test_segment_clicks(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Points and a box are the predictor's; what cannot be read is one sentence, and nothing is written."""
    options = ["--threshold", "0.45", "--no-target-threshold", "0", "--model", tiny_model_folder, "--device", "cpu"]
    clicks = ["--point", "3,4", "--point", "10,12.5", "--exclude-point", "20,5", "--box", "2,2,30,25"]
    result = run("segment", image, "star", *clicks, "--json", *options)
    (row,) = json.loads(result.out)
    predictor = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")
    points = [(3, 4), (10, 12.5), (20, 5)]
    twin = predictor.predict(image, "star", 0.45, 0.0, points=points, point_labels=[1, 1, 0], box=(2, 2, 30, 25))
    assert row["rle"] == twin.to_rle()
    for wrong, sentence in (
        (["--point", "3;4"], "'3;4' is not X,Y"),
        (["--box", "1,2,3"], "'1,2,3' is not LEFT,TOP,RIGHT,BOTTOM"),
        (["--point", "900,4"], "inside the image"),
        (["--point", "3,nan"], "finite"),
        (["--box", "5,5,5,9"], "A box"),
        (["ring", "--point", "3,4"], "phrase"),
    ):
        result = run("segment", image, "star", *wrong, "--out", "other", *options)
        assert (result.code, result.out) == (2, "")
        assert sentence in " ".join(result.err.split())
        assert not Path("other").exists()


def test_segment_says_that_nothing_matches(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Forced: black masks, and words instead of a box."""
    arguments = ["segment", image, "star", "--no-target-threshold", "1", "--threshold", "0"]
    result = run(*arguments, "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0
    assert "nothing matches" in result.out
    with Image.open(f"out/{answer_name(image, ['star'])}_mask.png") as opened:
        assert not np.asarray(opened).any()


def test_what_is_read_is_never_written_over(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """An image by its label map; a folder is no file."""
    before = Path(image).read_bytes()
    for target, expected_text in ((image, "is what is read, and would be lost"), ("folder.png", "")):
        Path("folder.png").mkdir(exist_ok=True)
        result = run("segment", image, "star", "--label-map", target, "--model", tiny_model_folder)
        assert result.code != 0
        assert expected_text in result.err
    assert Path(image).read_bytes() == before


def test_signs_that_the_model_does_not_know(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """No mask is made up for them."""
    result = run("segment", image, "\N{DOG FACE}", "--model", tiny_model_folder)
    assert (result.code, "maps every token of the phrase" in result.err) == (2, True)


def test_unknown_parts_are_named(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """A warning, and the results; `segment-many` counts them."""
    phrases = ["the star \u2b50\ufe0f", "a \u8d64 star \u00bd", "star"]
    result = run("segment", image, *phrases, "--json", "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0
    assert result.err.splitlines() == [
        "Warning: the tokenizer does not know '\u2b50\ufe0f' in the phrase 'the star \u2b50\ufe0f'",
        "Warning: the tokenizer does not know '\u8d64', '\u00bd' in the phrase 'a \u8d64 star \u00bd'",
    ]
    assert [row.get("unknown") for row in json.loads(result.out)] == [["\u2b50\ufe0f"], ["\u8d64", "\u00bd"], None]
    asked = [word for phrase in phrases for word in ("--phrases", phrase)]
    many = run("segment-many", "--images", image, *asked, "--out", "many", "--model", tiny_model_folder)
    assert "With parts that the tokenizer does not know: 2 phrases; the results name them." in many.out
    (row,) = map(json.loads, Path("many/results.jsonl").read_text().splitlines())
    assert [result.get("unknown") for result in row["results"]] == [["\u2b50\ufe0f"], ["\u8d64", "\u00bd"], None]


def test_a_long_phrase_is_short_in_the_table(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Five thousand words, a word of as many letters, and as many lines."""
    phrases = ["red " * 5000, "star " + "x" * 5000, "red\n" * 5000]
    result = run("segment", image, *phrases, "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0
    assert len(result.out.splitlines()) < 15
    assert len(result.err) < 1000


def test_a_long_phrase_is_cut_with_a_warning(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """18 words fit beside two special tokens; what was left out is shown as it was written."""
    phrase = " ".join(["red"] * 18) + " Circle, [not] blue"
    result = run("segment", image, phrase, "star", "--json", "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0
    assert result.err.strip() == "Warning: the phrase is longer than 20 tokens; left out: 'Circle, [not] blue'"
    first, second = json.loads(result.out)
    assert (first["left_out"], "left_out" in second) == ("Circle, [not] blue", False)


def test_phrases_with_one_file_name_do_not_overwrite_each_other(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Equal, equal but for signs, equal in their first forty characters, nothing but signs, already numbered."""
    start = "the very long red thing on the table that I mean"
    phrases = ["red!", "red?", "red", "red 2", f"{start} a", f"{start} b", "?!", "..."]
    arguments = ["--json", "--model", tiny_model_folder, "--device", "cpu"]
    rows = json.loads(run("segment", image, *phrases, *arguments).out)
    names = [row[kind] for row in rows for kind in ("mask", "overlay")]
    assert len({name.lower() for name in names}) == 2 * len(phrases)
    assert all(Path(name).is_file() for name in names)


def test_segment_label_map(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """One image of all phrases, as `label_map` makes it; only a PNG, expected_text before the model is loaded."""
    from refersam.inference.labels import label_map

    phrases = ["the red circle", "star"]
    options = ["--no-target-threshold", "0", "--model", tiny_model_folder, "--device", "cpu"]
    result = run("segment", image, *phrases, "--label-map", "maps/all.png", *options)
    assert result.code == 0, result.err
    assert "the label map is maps/all.png" in result.out
    answers = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu").predict(
        image, phrases, no_target_threshold=0
    )
    with Image.open("maps/all.png") as opened:
        assert opened.mode == "L"
        np.testing.assert_array_equal(np.asarray(opened), label_map(answers))
    assert_usage(run("segment", image, "star", "--label-map", "all.jpg", "--model", "nowhere"), "a PNG file")


@pytest.mark.parametrize(
    "phrase",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "a\\b",
        "a 日本語 の 赤い",
        "CON",
        "red\nstar",
        "a " + "x" * 3000,
        "a " + "日" * 300,
        "[/red] [bold]",
    ],
)
def test_no_phrase_leads_out_of_the_folder(run: Run, tiny_model_folder: Path, image: Path, phrase: str) -> None:
    """Slashes, dots, line ends, other scripts, rich's markup, names longer than the file system takes."""
    result = run("segment", image, phrase, "--out", "deep/out", "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0, result.err
    made = {path for path in Path.cwd().rglob("*") if path.is_file()} - {image}
    assert len(made) == 2
    assert {path.parent for path in made} == {Path.cwd() / "deep" / "out"}
    assert all(re.fullmatch(r"my image_[\w-]+_(mask|overlay)\.png", path.name) for path in made)


def test_a_long_image_name(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """255 bytes, the most there is: the masks' names are shortened, not refused."""
    long = image.with_name("é" * 125 + ".png")
    image.rename(long)
    result = run("segment", long, "star " * 30, "--model", tiny_model_folder, "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert all(Path(row["mask"]).is_file() for row in json.loads(result.out))


def test_a_image_name_in_no_encoding(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Bytes that are not UTF-8, as old archives hold them: shown as an escape, left out of the masks' names."""
    odd = Path(os.fsdecode(b"caf\xe9.png"))
    image.rename(odd)
    result = run("segment", odd, "star", "--model", tiny_model_folder, "--device", "cpu")
    assert result.code == 0, result.err
    assert r"caf\udce9.png" in result.out
    made = sorted(path.name for path in Path("out").iterdir())
    assert re.fullmatch(r"caf_star_\w{8}_mask\.png caf_star_\w{8}_overlay\.png", " ".join(made))


def test_answers_never_replace_others(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Phrases that begin alike and images of one name, in a call and across calls; the same question does."""
    long = "the large red circle above the small blue square"
    other = f"{long} on the left"
    images = [Path(name) for name in ("1/a.png", "2/a.png", "2/a.jpg")]
    for opened in images:
        opened.parent.mkdir(exist_ok=True)
        Image.open(image).save(opened)
    options = ["--model", tiny_model_folder, "--device", "cpu", "--json"]
    files: set[str] = set()
    for asked in ([long, other], [f"{other}!"], ["star"], ["Star"]):
        for opened in images:
            rows = json.loads(run("segment", opened, *asked, *options).out)
            new = {row[kind] for row in rows for kind in ("mask", "overlay")}
            assert len(new) == 2 * len(asked)
            assert not files & new
            files |= new
    assert len(list(Path("out").iterdir())) == len(files) == 30
    (again,) = json.loads(run("segment", images[0].absolute(), other, other, *options).out)[:1]
    assert again["mask"] in files
    assert len(list(Path("out").iterdir())) == 30


# -------------------------------------------------------------------------------------------- segment, used wrongly


def broken_png(path: Path) -> None:
    """Half of an image."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    noise.save(path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "expected_text"),
    [
        (lambda path: None, r"No such file: .*x\.png"),
        (lambda path: path.mkdir(), r"x\.png is not a file"),
        (lambda path: path.write_text("hello"), r"x\.png is not an image that can be read"),
        (lambda path: path.write_bytes(b""), r"x\.png is not an image that can be read"),
        (broken_png, r"x\.png is broken or cut off"),
        (lambda path: Image.new("1", (20_001, 5_000)).save(path), "20001 x 5000 pixels, more than the limit"),
        (lambda path: Image.new("1", (20_001, 10_000)).save(path), "too large to be decoded safely"),
    ],
)
def test_images_that_cannot_be_read(
    run: Run, tiny_model_folder: Path, tmp_path: Path, make: Callable[[Path], object], expected_text: str
) -> None:
    """Code 1, and no folder is made."""
    make(tmp_path / "x.png")
    assert_one_sentence(run("segment", tmp_path / "x.png", "star", "--model", tiny_model_folder), 1, expected_text)
    assert not Path("out").exists()


@pytest.mark.parametrize("phrase", ["", "  ", "\u200b", "\t\n"])
def test_phrases_without_a_word(run: Run, tiny_model_folder: Path, image: Path, phrase: str) -> None:
    """Code 2: the command was used wrongly."""
    result = run("segment", image, "star", phrase, "--model", tiny_model_folder, "--device", "cpu")
    assert_one_sentence(result, 2, "at least one word")
    assert not Path("out").exists()


def test_a_phrase_in_no_encoding(run: Run, tiny_model_folder: Path, image: Path) -> None:
    """Bytes that are not UTF-8, as the shell may pass them on."""
    result = run("segment", image, os.fsdecode(b"caf\xe9"), "--model", tiny_model_folder, "--device", "cpu")
    assert_one_sentence(result, 2, "not valid Unicode")


@pytest.mark.parametrize(
    ("option", "value", "expected_text"),
    [
        ("--device", "tpu", "Unknown device 'tpu': this machine has cpu"),
        ("--device", "cuda:99", "Device 'cuda:99' is not there: this machine has cpu"),
    ],
)
def test_devices_that_are_not_there(
    run: Run, tiny_model_folder: Path, image: Path, option: str, value: str, expected_text: str
) -> None:
    """Code 2, with what there is."""
    assert_one_sentence(run("segment", image, "star", "--model", tiny_model_folder, option, value), 2, expected_text)


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ([], "Missing argument 'PHRASE'"),
        (["star", "--dtype", "int3"], "'--dtype'.*'int3' is not one of.*float32.*bfloat16.*float16"),
        (["star", "--threshold", "2"], "'--threshold'"),
        (["star", "--threshold", "nan"], "'--threshold'.*nan is not a number from 0 to 1"),
        (["star", "--threshold", "inf"], "'--threshold'.*inf is not a number from 0 to 1"),
        (["star", "--threshold", "much"], "'--threshold'.*much is not a number from 0 to 1"),
        (["star", "--no-target-threshold", "-1"], "'--no-target-threshold'"),
        (["star", "--treshold", "0.5"], "No such option: --treshold"),
    ],
)
def test_segment_used_wrongly(run: Run, image: Path, arguments: list[str], expected_text: str) -> None:
    """Told before anything is loaded."""
    assert_usage(run("segment", image, *arguments), expected_text)


def test_an_unknown_command(run: Run) -> None:
    """Named."""
    assert_usage(run("segmnt"), "No such command 'segmnt'")


@pytest.mark.parametrize(
    ("name", "expected_text"),
    [
        ("nowhere", "No such model: nowhere is neither a folder nor a Hub id"),
        ("no/such-model", "No such model: no/such-model is not a folder, was never downloaded, and the Hub cannot be"),
        ("empty", "empty holds no ReferSAM model: a folder with config.json and weights is expected"),
        ("weights.pth", "weights.pth holds no ReferSAM model"),
        ("bert", "bert is a model of type 'bert', which cannot answer phrases"),
        ("cut", "The weights of cut could not be read: "),
        ("missing", "The weights of missing could not be read: .*no file named model.safetensors"),
        ("mute", "mute has no processor"),
    ],
)
def test_models_that_cannot_be_loaded(
    run: Run, tiny_model_folder: Path, image: Path, tmp_path: Path, name: str, expected_text: str
) -> None:
    """Code 1, one sentence, nothing written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"x")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for copy in ("cut", "missing", "mute"):
        if copy == name:
            shutil.copytree(tiny_model_folder, tmp_path / copy)
    if name == "cut":
        (tmp_path / "cut" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    elif name == "missing":
        (tmp_path / "missing" / "model.safetensors").unlink()
    elif name == "mute":
        (tmp_path / "mute" / "processor_config.json").unlink()
    assert_one_sentence(run("segment", image, "star", "--model", name, "--device", "cpu"), 1, expected_text)
    assert not Path("out").exists()


def test_weights_that_do_not_fit_are_reported_in_one_sentence(
    run: Run, tiny_model_folder: Path, image: Path, tmp_path: Path
) -> None:
    """transformers' own reports of loading are not printed beside it."""
    shutil.copytree(tiny_model_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"num_context_tokens": 3}))
    transformers.utils.logging.set_verbosity_warning()
    result = run("segment", image, "star", "--model", "other", "--device", "cpu")
    assert_one_sentence(result, 1, "other could not be read: some have another shape than its configuration says")


@pytest.mark.parametrize("out", ["my image.png", "my image.png/deeper/still"])
def test_out_is_a_file(run: Run, tiny_model_folder: Path, image: Path, out: str) -> None:
    """Told before the model is loaded; the file stays as it is."""
    before = image.read_bytes()
    result = run("segment", image, "star", "--model", "nowhere", "--out", out)
    assert_one_sentence(result, 1, r"my image\.png is a file: --out names a folder")
    assert image.read_bytes() == before


def test_out_may_not_be_written_to(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before the model is loaded."""
    monkeypatch.setattr(os, "access", lambda path, mode, **_options: not mode & os.W_OK)
    result = run("segment", image, "star", "--model", "nowhere", "--out", "new")
    assert_one_sentence(result, 1, "may not be written to: name another folder with --out")


def test_a_full_disk(run: Run, tiny_model_folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and no half file."""

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = run("segment", image, "star", "--model", tiny_model_folder, "--device", "cpu")
    assert_one_sentence(result, 1, "No space left on device")
    assert list(Path("out").iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- data


def test_data_scenes(run: Run, tmp_path: Path) -> None:
    """Images, both indices and statistics; a table of them."""
    size = ["--width", "64", "--height", "48", "--phrases", "3"]
    result = run("data", "scenes", "--out", "root", "--count", "3", "--seed", "5", "--split", "test", *size)
    assert result.code == 0, result.err
    images = sorted((tmp_path / "root" / "images" / "scenes").iterdir())
    assert len(images) == 3
    with Image.open(images[0]) as image:
        assert image.size == (64, 48)
    assert len(json.loads((tmp_path / "root" / "sceneref" / "instances.json").read_text())["images"]) == 3
    refs = json.loads((tmp_path / "root" / "sceneref" / "grefs(unc).json").read_text())
    assert {ref["split"] for ref in refs} == {"test"}
    assert "SceneRef, split test" in result.out
    assert re.search(r"images\W+3\b", result.out)


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ([], "Missing option '--out'"),
        (["--out", "x", "--count", "0"], "'--count'"),
        (["--out", "x", "--count", "1000001"], "'--count'"),
        (["--out", "x", "--width", "16"], "'--width'"),
        (["--out", "x", "--height", "100000"], "'--height'"),
        (["--out", "x", "--split", "validation"], "'--split'.*'validation' is not one of"),
        (["--out", "x", "--seed", "-1"], "'--seed'"),
    ],
)
def test_data_scenes_used_wrongly(run: Run, arguments: list[str], expected_text: str) -> None:
    """Code 2, nothing made."""
    assert_usage(run("data", "scenes", *arguments), expected_text)
    assert not Path("x").exists()


def test_data_scenes_into_someone_elses_data(run: Run, tmp_path: Path) -> None:
    """An index that is not SceneRef's is left alone; a file in the folder's place, too."""
    (tmp_path / "coco" / "sceneref").mkdir(parents=True)
    index = tmp_path / "coco" / "sceneref" / "instances.json"
    index.write_text('{"info": {"description": "COCO 2014 Dataset"}, "images": []}')
    result = run("data", "scenes", "--out", "coco", "--count", "1", "--width", "32", "--height", "32")
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "was not written by SceneRef" in result.err
    assert "COCO 2014" in index.read_text()
    (tmp_path / "file").write_text("x")
    assert_one_sentence(run("data", "scenes", "--out", "file", "--count", "1"), 1, "file is a file: --out names")


# ------------------------------------------------------------------------------------------------------------ convert


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ([], "Give either --preset or --config"),
        (["--preset", "base", "--config", "sizes.json"], "Give either --preset or --config"),
        (["--preset", "giant"], "'--preset'.*'giant' is not one of.*base.*large.*huge"),
        (["--preset", "base", "--text", "t5"], "'--text'.*'t5' is not one of"),
        (["--preset", "base", "--image-size", "100"], "--image-size must be a multiple of 32, but is 100"),
    ],
)
def test_convert_used_wrongly(run: Run, arguments: list[str], expected_text: str) -> None:
    """Code 2, nothing made."""
    assert_usage(run("convert", "official", "weights.pth", "--out", "model", *arguments), expected_text)
    assert not Path("model").exists()


def test_convert_what_is_no_checkpoint(run: Run, tmp_path: Path) -> None:
    """No such file; not a checkpoint; an invalid configuration; code 1, no folder made."""
    arguments = ["convert", "official", "weights.pth", "--out", "model"]
    assert_one_sentence(run(*arguments, "--preset", "base"), 1, r"No such file: weights\.pth")
    (tmp_path / "weights.pth").write_bytes(b"not a checkpoint")
    result = run(*arguments, "--preset", "base")
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "weights.pth is not a checkpoint that can be read safely" in result.err
    result = run(*arguments, "--config", "sizes.json")
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "sizes.json is not a JSON file that can be read" in result.err
    assert not Path("model").exists()


def test_convert_and_segment(run: Run, parity_folder: Path, image: Path) -> None:
    """The authors' layout, through the command, into a folder that segments."""
    source = parity_folder / "bert_tiny"
    tokenizer = Path("tokenizer")
    words = WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2}, unk_token="[UNK]")
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tokenizer)
    weights = source / "official_state_dict.safetensors"
    arguments = ["convert", "official", weights, "--config", source / "config.json", "--image-size", "64"]
    result = run(*arguments, "--out", "model", "--tokenizer", tokenizer)
    assert result.code == 0, result.err
    assert re.search(r"\d+ weights converted into model/", result.out)
    result = run("segment", image, "red", "--model", "model", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["no_target"] is False  # the authors' models always answer with a mask
    assert_one_sentence(run(*arguments, "--out", "model"), 1, "model already exists: name a new folder")


# -------------------------------------------------------------------------------------------------------------- train


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two steps of the tiny preset."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "extension: sceneref.training\nsteps: 2\nbatch_size: 1\nlog_every: 1\nloss: {num_points: 64}\n"
        "data: {image_size: 32, phrases_per_image: 1, validation_images: 1, workers: 0}\n"
        "sceneref: {scene_sizes: [64]}\n"
    )
    return path


def test_train_and_segment(run: Run, recipe: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a recipe to masks; a second run into the folder is refused and changes nothing."""
    from sceneref.training.source import SceneSource
    from sceneref.training.validation import SceneValidation

    monkeypatch.setattr(SceneSource, "tokenizer_images", 30)
    monkeypatch.setattr(SceneValidation, "scene_size", 64)
    result = run("train", recipe, "--out", "run", "--set", "seed=3", "--set", "steps=1")
    assert result.code == 0, result.err
    assert "The model is in run/model/" in result.out
    assert "mIoU" in result.out
    result = run("segment", image, "the red star", "--model", "run/model", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert len(json.loads(result.out)) == 1

    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert_one_sentence(
        run("train", recipe, "--out", "run"), 1, "run already holds files: choose another folder, or add --r"
    )
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_ctrl_c_in_training(run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says where it stopped and how to go on; nothing half-written."""
    from refersam.training.engine import Engine
    from sceneref.training.source import SceneSource

    monkeypatch.setattr(SceneSource, "tokenizer_images", 30)
    take_step = Engine.take_step

    def interrupted(self: Engine, batches: object, step: int, *rest: object) -> object:
        if step == 1:
            raise KeyboardInterrupt
        return take_step(self, batches, step, *rest)

    monkeypatch.setattr(Engine, "take_step", interrupted)
    result = run("train", recipe, "--out", "run", "--set", "checkpoint_every=1")
    assert result.code == 130
    assert "Traceback" not in result.err
    assert "Stopped after step 1. --resume goes on from the newest checkpoint in run/" in result.out
    names = {path.name for path in Path("run").iterdir() if path.is_file()}
    assert {"log.jsonl", "settings.yaml", "environment.json"} <= names
    assert not [path for path in Path("run").rglob("*") if path.suffix == ".tmp"]
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step_0000001.pt"]
    assert torch.load("run/checkpoints/step_0000001.pt", weights_only=True)["step"] == 1


def test_bars_move_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the lines of the log, of the pretraining as well; the time that is left is known from two long steps."""
    from refersam.cli import console, train

    clock, bars, progress_bar = [0.0], [], console.progress_bar

    def build(**options: Any) -> Any:
        bars.append(progress_bar(**options))
        bars[0].get_time = lambda: clock[0]
        return bars[0]

    def run(report: Any, on_step: Any) -> dict[str, float]:
        training = bars[0].tasks[0]
        seen = []
        for step in range(1, 4):
            clock[0] += 100.0
            on_step(step, 0)
            seen.append((bars[0].tasks[1].completed, training.completed))
        for step in range(1, 4):
            clock[0] += 100.0
            on_step(3, step)
            seen.append((bars[0].tasks[1].completed, training.completed))
        assert seen == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)]
        assert bars[0].tasks[1].description == "pretraining"
        assert training.time_remaining == pytest.approx(97 * 100.0)
        report(3, {"total": 0.5})
        assert training.description == "training  total 0.5"
        return {}

    monkeypatch.setattr(console, "progress_bar", build)
    accelerator = SimpleNamespace(is_main_process=True)
    trainer = SimpleNamespace(run=run, steps=100, step=0, pretraining_steps=3, accelerator=accelerator)
    train.run_with_progress(trainer, "training")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "expected_text", "code"),
    [
        (
            ["--set", "optimizer.learning_rat=1"],
            "unknown setting optimizer.learning_rat, did you mean learning_rate?",
            2,
        ),
        (["--set", "stepz=1"], "unknown setting stepz, did you mean steps?", 2),
        (["--set", "steps=0"], "steps should be greater than or equal to 1", 2),
        (["--set", "model.preset=giant"], "model.preset should be 'tiny', 'base', 'large' or 'huge'", 2),
        (
            ["--set", "model.config.num_sparse=1"],
            "model.config: unknown field num_sparse, did you mean num_sparse_",
            2,
        ),
        (["--set", "model.start_from=nowhere"], "No such model: nowhere", 1),
    ],
)
def test_recipes_that_are_refused(
    run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected_text: str, code: int
) -> None:
    """One sentence, no folder made; code 2 if the setting is wrong, 1 if the model that it names is."""
    from sceneref.training.source import SceneSource

    monkeypatch.setattr(SceneSource, "tokenizer_images", 5)
    result = run("train", recipe, "--out", "run", *arguments)
    assert (result.code, result.out) == (code, "")
    assert "Traceback" not in result.err
    assert expected_text in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_train_without_a_recipe(run: Run, recipe: Path) -> None:
    """No such file is code 1; a missing argument or option is code 2."""
    assert_one_sentence(run("train", "nowhere.yaml", "--out", "run"), 1, r"No such file: nowhere\.yaml")
    assert_one_sentence(run("train", recipe, "--out", recipe), 1, r"recipe\.yaml is a file: --out names a folder")
    assert_usage(run("train"), "Missing argument 'RECIPE'")
    assert_usage(run("train", recipe), "Missing option '--out'")
