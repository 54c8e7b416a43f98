"""Results on disk: one line per image, appended when it is done; images that are done are skipped by a resumed run."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path, PurePath
from typing import IO, Any

from refersam.bulk.items import MASKS, Item, item_key
from refersam.drawing import mask_image
from refersam.errors import DataError
from refersam.files import WriteLock, save_png, write_atomically
from refersam.metrics.masks import decode_mask
from refersam.names import key_of, slug

RESULTS, FAILURES, SETTINGS, COCO = "results.jsonl", "failures.jsonl", "settings.json", "instances.json"
OWN_DATA = ("train.jsonl", "val.jsonl")
_PART = ".part"
_BEFORE = {"min_component_fraction": 0.0}
"""Settings of results whose folder does not name them: they are older than the setting."""

Line = dict[str, Any]
"""What is known of one image: image, width, height and results, a list of `Answer.as_dict()`; or image and error.

Lines with results also carry the domain of the model that made them, if it has one."""


class ResultFolder:
    """Folder of results, open for appending. Use it as a context manager.

    `results.jsonl.part` grows by a line per image and becomes `results.jsonl` at the end. A line that was truncated
    by a kill or a full disk is removed when the folder is opened again, and its image is segmented again.

    Args:
        out: folder; created if missing.
        settings: settings that the results depend on; a folder with different ones is refused.
        masks: whether to write each mask as a PNG below masks/, too.

    Raises:
        DataError: results of other settings, a file that is not a result, or another process is writing there.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], masks: bool) -> None:
        self.out, self.masks = out, masks
        self.done: set[bytes] = set()
        self.failures: int = 0
        self._taken: set[bytes] = set()  # names of mask files
        self._settings = {**settings, "masks": masks}
        self._final, self._part = out / RESULTS, out / (RESULTS + _PART)
        self._failed = out / (FAILURES + _PART)
        self._was_finished = self._is_first_try = self._is_changed = False
        self._lock = WriteLock(out)
        self._files = ExitStack()
        self._file: IO[bytes]
        self._failed_file: IO[bytes] | None = None

    def __enter__(self) -> ResultFolder:
        self._check_settings()
        self._lock.acquire()
        try:
            self._was_finished = self._final.exists() and not self._part.exists()
            self._is_first_try = not (self.out / SETTINGS).exists()
            if self._was_finished:
                self._final.replace(self._part)
            mode = "r+b" if self._part.exists() else "w+b"
            self._file = self._files.enter_context(self._part.open(mode))
            self._resume()
            content = json.dumps(self._settings, indent=1).encode()
            write_atomically(self.out / SETTINGS, lambda file: file.write(content))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Close the files; without a new line, the folder is unchanged."""
        self._files.close()  # Windows renames and removes no open file
        if not self._is_changed and self._part.exists():
            if self._was_finished:
                self._part.replace(self._final)
            elif self._is_first_try and not self._part.stat().st_size:
                self._part.unlink()
                (self.out / SETTINGS).unlink(missing_ok=True)
        self._lock.release()

    def add(self, line: Line) -> None:
        """Write the results of one image, or its failure."""
        self._is_changed = True
        if "error" in line:
            self.failures += 1
            if self._failed_file is None:
                self._failed_file = self._files.enter_context(self._failed.open("wb"))
            self._failed_file.write(_encode(line))
            self._failed_file.flush()
            return
        if self.masks:
            for index, result in enumerate(line["results"]):
                result["mask"] = str(self._new_mask(line["image"], result["phrase"], index))
                _write_mask(self.out / result["mask"], result["rle"])
        self._file.write(_encode(line))
        self._file.flush()

    def _new_mask(self, image: str, phrase: str, index: int) -> Path:
        """Return a unique file name; phrases may differ only in punctuation, and images only in a dot."""
        first = path = mask_path(image, phrase, index)
        numbers = count(2)
        while _file_key(path) in self._taken:
            path = first.with_stem(f"{first.stem}_{next(numbers)}")
        self._taken.add(_file_key(path))
        return path

    def missing(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items that are not done, each once."""
        for item in items:
            if item.key not in self.done:
                self.done.add(item.key)
                yield item

    def finish(self) -> None:
        """Give the files their final names."""
        self._files.close()
        self._part.replace(self._final)
        if self._failed_file is not None:
            self._failed.replace(self.out / FAILURES)
        else:
            for old in (self._failed, self.out / FAILURES):
                old.unlink(missing_ok=True)

    def _check_settings(self) -> None:
        path = self.out / SETTINGS
        if not path.exists():
            for name in (RESULTS, RESULTS + _PART, FAILURES, COCO, MASKS):
                if (self.out / name).exists():
                    raise DataError(f"{self.out} has {name} of unknown settings: name another folder with --out.")
            return
        if not any(file.exists() and file.stat().st_size for file in (self._final, self._part)):
            return  # a first try that came to nothing
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is not JSON: name another folder with --out.") from error
        for name, value in self._settings.items():
            old = before.get(name, _BEFORE.get(name)) if isinstance(before, dict) else None
            if not isinstance(before, dict) or old != value:
                what = f"{name} = {old!r}, not {value!r}"
                if name == "masks":
                    what = f"{'' if old else 'no '}--format png"
                raise DataError(f"{self.out} has results made with {what}: do the same, or name another folder.")

    def _resume(self) -> None:
        end = 0
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):  # cut off; even where only the line's end is missing
                break
            try:
                line = json.loads(raw)
                self.done.add(_key(line))
                self._taken |= {_file_key(result["mask"]) for result in line["results"] if "mask" in result}
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{self._part}, line {number} is no result: name another folder with --out.") from error
            end += len(raw)
        self._file.seek(end)
        self._file.truncate()


def read_results(path: Path) -> Iterator[Line]:
    """Yield the lines of a `results.jsonl`."""
    with path.open("rb") as file:
        for raw in file:
            yield json.loads(raw)


def mask_path(image: str, phrase: str, index: int) -> Path:
    """Return the path of a mask inside the folder of results: masks/IMAGE/INDEX_PHRASE.png."""
    parts = [part for part in PurePath(image).parts if part not in ("..", PurePath(image).anchor)]
    if len(parts) != len(PurePath(image).parts):  # it is outside of the folder of images
        parts.insert(0, "outside_" + item_key(image, ()).hex()[:8])
    return Path(MASKS, *parts, f"{index}_{slug(phrase)}.png")


def _file_key(path: str | Path) -> bytes:
    """Return a key that is equal for names that a file system may not distinguish: by case, or by form of accents."""
    return key_of(unicodedata.normalize("NFC", str(path)).casefold())


def _write_mask(path: Path, rle: Mapping[str, Any]) -> None:
    save_png(mask_image(decode_mask(rle)), path)


def _encode(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _key(line: Line) -> bytes:
    _ = line["width"], line["height"]  # without them it is no result
    return item_key(line["image"], [result["phrase"] for result in line["results"]])
