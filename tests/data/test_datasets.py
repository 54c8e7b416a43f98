"""Readers of the benchmarks on small files of each format, with all known edge cases."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam.data import DATASETS, ReferringImage, open_dataset
from refersam.data.datasets import read_dataset
from refersam.data.findings import Severity
from refersam.errors import DataError, ImageError
from sceneref import SceneRefSettings, generate_scene, write_sceneref

Change = Callable[[Any], None]


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a (30, 40) bool mask of a rectangle; right and bottom are exclusive."""
    mask = np.zeros((30, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


def kinds(root: Path, dataset: str = "refcoco") -> list[tuple[str, str]]:
    """Return severity and kind of all findings of a data set."""
    return [(finding.severity.name, finding.kind) for finding in read_dataset(root, dataset).findings]


# ------------------------------------------------------------------------------------------------------ what is read


def test_refcoco(miniature: Any) -> None:
    """Samples in the file's order, one per sentence, with name, image, mask, category and distractors."""
    samples = open_dataset(miniature.write(), "refcoco", "train")
    assert (samples.name, samples.split, samples.split_by, len(samples)) == ("refcoco", "train", "unc", 3)
    assert [(s.sample_id, s.phrase) for s in samples] == [
        ("0", "the left dog"),
        ("1", "dog on the left"),
        ("10", "the right dog"),
    ]
    assert {s.image.path for s in samples} == {miniature.root / "images/train2014/COCO_train2014_000000000001.jpg"}
    assert samples[0].image is samples[2].image
    assert (samples[0].image.width, samples[0].image.height, samples[0].image.image_id) == (40, 30, "1")
    assert [(s.category, s.distractors, s.tags, s.has_target) for s in samples] == 3 * [("dog", 1, (), True)]
    np.testing.assert_array_equal(samples[0].load_mask(), rectangle(2, 3, 12, 13))
    np.testing.assert_array_equal(samples[2].load_mask(), rectangle(20, 3, 30, 13))
    assert samples[0].image.load().size == (40, 30)
    assert samples[-1] is samples[2]
    assert samples[1:] == [samples[1], samples[2]]
    assert repr(samples) == "<ReferringDataset refcoco (unc), train: 3 samples>"


def test_a_data_set_can_be_sent_to_other_processes(miniature: Any) -> None:
    """Data sets and samples can be pickled."""
    samples = open_dataset(miniature.write(), "refcoco", "val")
    copy = pickle.loads(pickle.dumps(samples))
    assert (copy.name, copy.split, len(copy)) == ("refcoco", "val", 1)
    np.testing.assert_array_equal(copy[0].load_mask(), samples[0].load_mask())


def test_samples_of_one_image_stay_together(miniature: Any) -> None:
    """For any order in the file."""
    miniature.refs.append(miniature.ref(3, 20, 2, "train", "the cat"))
    miniature.refs.append(miniature.ref(4, 10, 1, "train", "a dog"))
    groups = open_dataset(miniature.write(), "refcoco", "train").images()
    assert [[sample.sample_id for sample in group] for group in groups] == [["0", "1", "10", "40"], ["30"]]
    loaded = ReferringImage.load(groups[0])
    assert loaded.image.shape == (30, 40, 3)
    assert loaded.masks.shape == (4, 30, 40)
    assert loaded.sample_ids == ("0", "1", "10", "40")


def test_overlapping_polygons_are_their_union(miniature: Any) -> None:
    """Polygons of one annotation."""
    (sample,) = open_dataset(miniature.write(), "refcoco", "val")
    np.testing.assert_array_equal(sample.load_mask(), rectangle(2, 2, 20, 20) | rectangle(10, 10, 30, 25))
    assert (sample.category, sample.distractors) == ("cat", 0)


def test_raw_and_sent(miniature: Any) -> None:
    """The requested text; if it has no word, the other one; phrases without words are omitted."""
    miniature.refs[0]["sentences"][1]["sent"] = " "
    miniature.refs[1]["sentences"][0] |= {"sent": "", "raw": "\u200b"}
    root = miniature.write()
    assert [s.phrase for s in open_dataset(root, "refcoco", "train")] == ["the left dog", "DOG ON THE LEFT!"]
    raw = [s.phrase for s in open_dataset(root, "refcoco", "train", text_field="raw")]
    assert raw == ["THE LEFT DOG!", "DOG ON THE LEFT!"]
    assert kinds(root) == [("WARNING", "empty phrases")]
    with pytest.raises(DataError, match='must be "sent" or "raw", but is \'tokens\''):
        open_dataset(root, "refcoco", "train", text_field="tokens")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dataset", "folder", "file", "split_by"),
    [
        ("refcoco", "refcoco", "refs(unc).p", None),
        ("refcoco", "refcoco", "refs(google).p", "google"),
        ("refcoco+", "refcoco+", "refs(unc).p", None),
        ("refcocog", "refcocog", "refs(umd).p", None),
        ("refcocog", "refcocog", "refs(google).p", "google"),
        ("grefcoco", "grefcoco", "grefs(unc).json", None),
        ("refzom", "refzom", "refs(final).p", None),
        ("refzom", "ref-zom", "Ref-ZOM(final).p", None),
    ],
)
@pytest.mark.parametrize("images", ["images/train2014", "train2014"])
def test_names_of_files_and_folders(
    miniature: Any, dataset: str, folder: str, file: str, split_by: str | None, images: str
) -> None:
    """As published, and common variants."""
    samples = open_dataset(miniature.write(folder, file, images), dataset, "train", split_by)
    assert (len(samples), samples.split_by) == (3, split_by or file.split("(")[1].split(")")[0])
    assert samples[0].image.load().size == (40, 30)


def test_grefcoco_has_several_targets_or_none(miniature: Any) -> None:
    """Lists of annotations; -1 for no target."""
    miniature.refs = [
        miniature.ref(0, [10, 11], 1, "train", "both dogs", no_target=False),
        miniature.ref(1, [-1], 1, "train", "the horse", no_target=True),
        miniature.ref(2, [10], 1, "train", "the left dog", no_target=False),
    ]
    both, none, left = open_dataset(miniature.write("grefcoco", "grefs(unc).json"), "grefcoco", "train")
    np.testing.assert_array_equal(both.load_mask(), rectangle(2, 3, 12, 13) | rectangle(20, 3, 30, 13))
    assert (both.category, both.distractors, left.distractors) == ("dog", 0, 1)
    assert (none.has_target, none.category, none.distractors) == (False, None, None)
    assert not none.load_mask().any()


def test_targets_of_several_categories_have_no_category(miniature: Any) -> None:
    """Distractors are the objects of all its categories."""
    miniature.annotations.append(miniature.annotation(13, 1, 5, [[0, 0, 5, 0, 5, 5]]))
    miniature.refs = [miniature.ref(0, [10, 13], 1, "train", "dog and cat", no_target=False)]
    (sample,) = open_dataset(miniature.write("grefcoco", "grefs(unc).json"), "grefcoco", "train")
    assert (sample.category, sample.distractors) == (None, 1)


def test_refzom_takes_images_of_both_folders(miniature: Any) -> None:
    """`ann_id` is a number, a list, or an empty list with the source "zero"."""
    miniature.images[1] = miniature.image(2, "val")
    miniature.refs = [
        miniature.ref(0, 10, 1, "train", "a dog", source="one"),
        miniature.ref(1, [10, 11], 1, "train", "two dogs", source="multi"),
        miniature.ref(2, [20], 2, "train", "the cat", source="one"),
        miniature.ref(3, [], 2, "train", "the horse", source="zero"),
    ]
    root = miniature.write("refzom", "refs(final).p")
    (root / "images/val2014").mkdir()
    (root / "images/train2014/COCO_val2014_000000000002.jpg").rename(
        root / "images/val2014/COCO_val2014_000000000002.jpg"
    )
    samples = open_dataset(root, "refzom", "train")
    assert [s.has_target for s in samples] == [True, True, True, False]
    assert [s.image.path.parent.name for s in samples] == ["train2014", "train2014", "val2014", "val2014"]
    assert all(s.image.load().size == (40, 30) for s in samples)


def test_crowds_are_targets_only_where_a_ref_names_them(miniature: Any) -> None:
    """They are never distractors."""
    root = miniature.write()
    assert open_dataset(root, "refcoco", "train")[0].distractors == 1
    miniature.refs.append(miniature.ref(3, 12, 1, "train", "all the dogs"))
    crowd = open_dataset(miniature.write(), "refcoco", "train")[3]
    assert (crowd.load_mask().sum(), crowd.category, crowd.distractors) == (30, "dog", 2)
    assert [region["iscrowd"] for region in crowd.regions if isinstance(region, dict)] == [1]


def test_sceneref_is_read_back_as_it_was_drawn(tmp_path: Path) -> None:
    """Images, phrases, tags and masks of all splits in the folder."""
    settings = SceneRefSettings(width=64, height=48, phrases_per_scene=3)
    for split in ("train", "val"):
        write_sceneref(tmp_path, split, 2, 5, settings)
    samples = open_dataset(tmp_path, "sceneref", "val")
    scenes = [generate_scene(settings, "val", 5, index) for index in range(2)]
    assert [s.tags for s in samples] == [phrase.tags for scene in scenes for phrase in scene.phrases]
    for scene, group in zip(scenes, samples.images(), strict=True):
        loaded = ReferringImage.load(group)
        np.testing.assert_array_equal(loaded.image, scene.image)
        for phrase, mask in zip(scene.phrases, loaded.masks, strict=True):
            np.testing.assert_array_equal(mask, scene.target_mask(phrase))


def test_mixed_leaves_out_images_of_other_splits(miniature: Any) -> None:
    """Training phrases of all three data sets, without images of any val or test split of the three."""
    miniature.images.append(miniature.image(3))
    miniature.annotations.append(miniature.annotation(30, 3, 5, [[0, 0, 9, 0, 9, 9]]))
    miniature.write("refcoco", "refs(unc).p")
    miniature.refs = [
        miniature.ref(0, 20, 2, "train", "the cat"),  # val of refcoco
        miniature.ref(1, 30, 3, "train", "a small cat"),
        miniature.ref(2, 10, 1, "train", "a dog"),
    ]
    miniature.write("refcoco+", "refs(unc).p")
    miniature.refs = [miniature.ref(0, 30, 3, "test", "the third"), miniature.ref(1, 11, 1, "train", "right one")]
    samples = open_dataset(miniature.write("refcocog", "refs(umd).p"), "mixed", "train")
    assert [s.sample_id for s in samples] == ["refcoco:0", "refcoco:1", "refcoco:10", "refcoco+:20", "refcocog:10"]
    assert len(samples.images()) == 1
    assert len({id(s.image) for s in samples}) == 1
    assert [f.message for f in samples.findings if f.kind == "images held out"] == [
        "Left out of the training splits: 2 images of a val or test split of the three."
    ]
    with pytest.raises(DataError, match="mixed has the split train only, not val"):
        open_dataset(miniature.root, "mixed", "val")


def test_python_2_pickles(miniature: Any) -> None:
    """Byte strings, as in the published files."""
    root = miniature.write()
    text = pickle.dumps(miniature.refs, protocol=0).replace(b"Vthe left dog", b"S'the l\\xc3\\xa9ft dog'")
    (root / "refcoco/refs(unc).p").write_bytes(text)
    assert open_dataset(root, "refcoco", "train")[0].phrase == "the léft dog"


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16"])
def test_images_of_every_mode(miniature: Any, mode: str) -> None:
    """They are converted to 8-bit RGB."""
    root = miniature.write()
    path = root / "images/train2014/COCO_train2014_000000000001.jpg"
    grey = Image.fromarray(np.full((30, 40), 100, np.uint8))
    image = Image.fromarray(np.full((30, 40), 100 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    read = open_dataset(root, "refcoco", "train")[0].image.load()
    assert (read.mode, read.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(read).astype(int) - 100).max() <= 2


def test_images_are_not_turned(miniature: Any) -> None:
    """The masks match the stored pixels; the EXIF orientation is ignored."""
    root = miniature.write()
    path = root / "images/train2014/COCO_train2014_000000000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    assert open_dataset(root, "refcoco", "train")[0].image.load().size == (40, 30)


def test_a_image_of_another_size_is_an_error_when_it_is_read(miniature: Any) -> None:
    """Its masks would not match."""
    root = miniature.write()
    path = miniature.draw(root / "images/train2014/COCO_train2014_000000000001.jpg", 30, 40)
    sample = open_dataset(root, "refcoco", "train")[0]
    with pytest.raises(DataError, match="has 30 x 40 pixels, but its annotations are for 40 x 30"):
        sample.image.load()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="broken or cut off"):
        sample.image.load()


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_split_names_are_compared_whole(miniature: Any) -> None:
    """ "test" is not testA and testB."""
    miniature.refs += [miniature.ref(3, 20, 2, "testA", "cat"), miniature.ref(4, 20, 2, "testB", "cat")]
    root = miniature.write()
    assert [s.sample_id for s in open_dataset(root, "refcoco", "testA")] == ["30"]
    with pytest.raises(DataError, match=r"has no split 'test': .*refs\(unc\)\.p has train, val, testA, testB\.$"):
        open_dataset(root, "refcoco", "test")


def test_a_missing_image_is_reported_before_work_starts(miniature: Any) -> None:
    """With its full name, only for its split."""
    root = miniature.write()
    path = root / "images/train2014/COCO_train2014_000000000002.jpg"
    path.unlink()
    assert len(open_dataset(root, "refcoco", "train")) == 3
    with pytest.raises(DataError, match="split val, cannot be used \\(1 error\\): No such file: ") as error:
        open_dataset(root, "refcoco", "val")
    assert str(path) in str(error.value)


def test_without_any_image_there_is_one_sentence(miniature: Any) -> None:
    """One sentence for all images."""
    root = miniature.write(images="elsewhere")
    with pytest.raises(DataError, match=r"1 error.*no folder with images: .*images/train2014 or .*train2014 is exp"):
        open_dataset(root, "refcoco", "train")


def ref_without_annotation(mini: Any) -> None:
    mini.refs[0]["ann_id"] = 99


def annotation_without_image(mini: Any) -> None:
    mini.images = mini.images[1:]


def annotation_of_another_image(mini: Any) -> None:
    mini.refs[0]["ann_id"] = 20


def no_usable_polygon(mini: Any) -> None:
    mini.annotations[0]["segmentation"] = [[1, 2, 3, 4]]


def no_segmentation(mini: Any) -> None:
    del mini.annotations[0]["segmentation"]


def rle_of_another_size(mini: Any) -> None:
    mini.annotations[0]["segmentation"] = {"size": [40, 30], "counts": [600, 600]}


def no_target_with_annotation(mini: Any) -> None:
    mini.refs[0]["no_target"] = True


def target_without_annotation(mini: Any) -> None:
    mini.refs[0] |= {"no_target": False, "ann_id": [-1]}


def refcoco_without_target(mini: Any) -> None:
    mini.refs[0]["ann_id"] = -1


def zero_with_annotation(mini: Any) -> None:
    mini.refs[0]["source"] = "zero"


def image_id_twice(mini: Any) -> None:
    mini.images.append(mini.images[0])


def annotation_id_twice(mini: Any) -> None:
    mini.annotations.append(mini.annotations[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ref_without_annotation, r"ref 0 \(train\) names annotation 99, which .*instances\.json does not have"),
        (annotation_without_image, r"ref 0 \(train\) names image 1, which .*instances\.json does not have"),
        (annotation_of_another_image, "ref 0 .* is about image 1, but its annotation 20 about image 2"),
        (no_usable_polygon, "ref 0 .*annotation 10, whose mask cannot be drawn: none of its 1 polygons"),
        (no_segmentation, "ref 0 .*annotation 10, whose mask cannot be drawn: .*came nothing"),
        (rle_of_another_size, "annotation 10, which has a mask of 30 x 40 pixels, but its image 40 x 30"),
        (no_target_with_annotation, "ref 0 .* says that it has no target, but names annotations"),
        (target_without_annotation, "ref 0 .* names no annotation, and does not say that it has no target"),
        (refcoco_without_target, "ref 0 .* names no annotation, and does not say that it has no target"),
        (zero_with_annotation, "ref 0 .* says that it has no target, but names annotations"),
        (image_id_twice, "images, entry 2: the image id 1 was used before"),
        (annotation_id_twice, "the annotation id 10 was used before"),
    ],
)
def test_contradictions_are_errors(miniature: Any, change: Change, message: str) -> None:
    """One sentence with file and record, and the remedy at the end."""
    change(miniature)
    with pytest.raises(DataError, match=f"refcoco \\(unc\\), split train, cannot be used .*{message}") as error:
        open_dataset(miniature.write(), "refcoco", "train")
    assert str(error.value).endswith(f"refersam data check --data-root {miniature.root} --dataset refcoco.")


def test_several_errors_are_reported_at_once(miniature: Any) -> None:
    """The first three, and the number of further ones."""
    for ref in miniature.refs:
        ref["ann_id"] = 99
    miniature.refs += [miniature.ref(number, 98, 1, "train", "x") for number in range(3, 6)]
    with pytest.raises(DataError, match=r"5 errors.*ref 0 .*ref 1 .*ref 3 .*And 2 more\."):
        open_dataset(miniature.write(), "refcoco", "train")


def test_bad_polygons_are_noted(miniature: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With the number per annotation; the valid ones make the mask."""
    miniature.annotations[0]["segmentation"] += [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
    with caplog.at_level(logging.INFO):
        sample = open_dataset(miniature.write(), "refcoco", "train")[0]
    np.testing.assert_array_equal(sample.load_mask(), rectangle(2, 3, 12, 13))
    assert "2 of 3 polygons of annotation 10 left out" in caplog.text
    assert kinds(miniature.root) == [("NOTE", "bad polygons")]


def test_annotations_without_image_that_nobody_names_are_noted(miniature: Any) -> None:
    """They are harmless."""
    miniature.annotations.append(miniature.annotation(50, 77, 3, []))
    assert len(open_dataset(miniature.write(), "refcoco", "train")) == 3
    assert kinds(miniature.root) == [("NOTE", "annotations without image")]


def test_numbers_that_are_used_twice_are_warned_of(miniature: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Samples have unique ids."""
    miniature.refs[1] = miniature.refs[0]
    samples = open_dataset(miniature.write(), "refcoco", "train")
    assert [s.sample_id for s in samples] == ["0", "1", "0_2", "1_2"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert kinds(miniature.root) == [("WARNING", "duplicate ref ids"), *2 * [("WARNING", "duplicate sentence ids")]]


def test_a_name_that_leads_out_of_the_folder_is_refused(miniature: Any) -> None:
    """Downloaded annotations must not access other files."""
    for name in ("../../secret.jpg", "/etc/passwd"):
        root = miniature.write()
        text = (root / "refcoco/instances.json").read_text().replace("COCO_train2014_000000000001.jpg", name)
        (root / "refcoco/instances.json").write_text(text)
        with pytest.raises(DataError, match="is not an image's name: it leads out of the folder"):
            open_dataset(root, "refcoco", "train")


# ---------------------------------------------------------------------------------------- files that are something else


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 0, "width"), "wide", r"instances\.json, images, entry 0: width .*valid integer.*but is 'wide'"),
        (("images", 0, "width"), 0, r"images, entry 0: width .*greater than 0, but is 0"),
        (("images", 0, "width"), 10**9, r"images, entry 0: 1000000000 x 30 pixels are more than the limit"),
        (("images", 1, "file_name"), None, r"images, entry 1: file_name .*valid string, but is None"),
        (("images", 0), [1], r"images, entry 0: it .*but is \[1\]"),
        (("annotations", 1, "image_id"), {}, r"annotations, entry 1: image_id .*but is {}"),
        (("annotations", 1), "x", r"annotations, entry 1: it .*but is 'x'"),
        (("categories", 0, "name"), 3, r"categories, entry 0: name .*but is 3"),
        (("images",), 3, r"instances\.json, images, entry 0: "),
        (("annotations",), [], r'not a COCO instances file: it has no entries in "annotations"'),
    ],
)
def test_wrong_types_in_instances(miniature: Any, place: tuple[Any, ...], value: object, message: str) -> None:
    """File, record, field, expected type, found value."""
    root = miniature.write()
    path = root / "refcoco/instances.json"
    content = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        open_dataset(root, "refcoco", "train")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0,), "x", r"refs\(unc\)\.p, entry 0: it .*but is 'x'"),
        ((1, "ann_id"), "x", r"entry 1: ann_id\.0 .*but is 'x'"),
        ((1, "ann_id"), None, r"entry 1: ann_id\.0 .*but is None"),
        ((2, "split"), 4, r"entry 2: split .*valid string, but is 4"),
        ((2, "sentences"), {}, r"entry 2: sentences .*valid list"),
        ((2, "sentences", 0, "sent"), 5, r"entry 2: sentences\.0\.sent .*but is 5"),
        ((2, "sentences", 0, "sent"), None, r'entry 2: sentence 20 has no text "sent"'),
    ],
)
def test_wrong_types_in_refs(miniature: Any, place: tuple[Any, ...], value: object, message: str) -> None:
    """The same for pickles."""
    inner: Any = miniature.refs
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(DataError, match=message):
        open_dataset(miniature.write(), "refcoco", "train")


def test_missing_fields(miniature: Any) -> None:
    """The error names the fields."""
    del miniature.refs[1]["image_id"]
    with pytest.raises(DataError, match=r"refs\(unc\)\.p, entry 1: image_id is missing\."):
        open_dataset(miniature.write(), "refcoco", "train")


@pytest.mark.parametrize("content", [{"refs": []}, {"a": [1]}, "refs", None])
def test_refs_that_are_not_a_list(miniature: Any, content: object) -> None:
    """Pickle and JSON."""
    root = miniature.write()
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p should hold a list of refs, but holds a"):
        open_dataset(root, "refcoco", "train")
    miniature.write("grefcoco", "grefs(unc).json")
    (root / "grefcoco/grefs(unc).json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"grefs\(unc\)\.json (should hold a list of refs|is not a JSON file)|no split"):
        open_dataset(root, "grefcoco", "train")


def test_missing_files(miniature: Any) -> None:
    """Data set, partition, folder, files, split: each error lists the choices or the remedy."""
    root = miniature.write()
    with pytest.raises(
        DataError, match=f"Unknown data set 'coco': choose one of {', '.join(DATASETS)}".replace("+", r"\+")
    ):
        open_dataset(root, "coco", "train")
    with pytest.raises(DataError, match="refcoco has no partition 'umd': choose one of unc, google"):
        open_dataset(root, "refcoco", "train", "umd")
    with pytest.raises(DataError, match="jsonl has no partitions: leave out 'unc'"):
        open_dataset(root, "jsonl", "train", "unc")
    with pytest.raises(DataError, match=r"No such folder: .*nowhere should hold the data sets"):
        open_dataset(root / "nowhere", "refcoco", "train")
    with pytest.raises(DataError, match=r"RefCOCOg is not in .*refs\(umd\)\.p is expected.*`refersam data prepare`"):
        open_dataset(root, "refcocog", "train")
    (root / "refcoco/instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json cannot be read: No such file"):
        open_dataset(root, "refcoco", "train")


def test_findings_that_do_not_forbid_use_come_with_the_data_set(miniature: Any) -> None:
    """Notes and warnings only."""
    miniature.refs[1]["ref_id"] = 0
    samples = open_dataset(miniature.write(), "refcoco", "train")
    assert [finding.severity for finding in samples.findings] == [Severity.WARNING]
