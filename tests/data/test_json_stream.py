"""Reading JSON record by record equals `json.load`, for all window sizes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from refersam.data import json_stream
from refersam.data.json_stream import iterate_json
from refersam.errors import DataError


def random_value(drawn: random.Random, depth: int = 0) -> Any:
    """Return random numbers, strings, lists and objects."""
    kind = drawn.random()
    if depth > 3 or kind < 0.4:
        return drawn.choice([1, -2.5, 12345678, 1e-10, 'a"b\\é\u2028,]}', None, True, "", "x" * 30, "日本"])
    if kind < 0.7:
        return [random_value(drawn, depth + 1) for _ in range(drawn.randint(0, 4))]
    return {f"k{i}": random_value(drawn, depth + 1) for i in range(drawn.randint(0, 4))}


def expected(content: Any) -> list[tuple[str, Any]]:
    """Return the expected result of `iterate_json`."""
    if isinstance(content, list):
        return [("", record) for record in content]
    pairs = content.items()
    return [(name, record) for name, value in pairs for record in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("window", [1, 2, 3, 7, 1000])
def test_equal_to_json_load(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random files, complete and truncated."""
    monkeypatch.setattr(json_stream, "_CHUNK", window)
    drawn, path = random.Random(window), tmp_path / "x.json"
    for _ in range(60):
        records = [random_value(drawn) for _ in range(4)]
        content = drawn.choice([records, {f"n{i}": record for i, record in enumerate(records)}])
        text = json.dumps(content, ensure_ascii=drawn.random() < 0.5, indent=drawn.choice([None, 1]))
        path.write_text(text + drawn.choice(["", "\n", "  "]), encoding="utf-8")
        assert list(iterate_json(path)) == expected(content)
        path.write_text(text[: drawn.randrange(len(text))], encoding="utf-8")
        with pytest.raises(DataError, match=r"x\.json is not a JSON file, or is cut off: at character \d+ .*\.$"):
            list(iterate_json(path))


def test_byte_order_mark_and_empty_containers(tmp_path: Path) -> None:
    """As written on Windows."""
    path = tmp_path / "x.json"
    for text, content in (
        ("[]", []),
        ("{}", []),
        ('{"a": []}', []),
        ('{"a": {}}', [("a", {})]),
        (" [ 1 ] ", [("", 1)]),
    ):
        path.write_text(text, encoding="utf-8-sig")
        assert list(iterate_json(path)) == content


@pytest.mark.parametrize(
    "text", ["", "   ", "3", '"a"', "[1 2]", "[1,]", "[,1]", '{"a" 1}', "{1: 2}", "[1] 2", "[nope]", '{"a": 1,}', "]"]
)
def test_invalid_json(text: str, tmp_path: Path) -> None:
    """The error has the position, the expected and the found characters."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json is not a JSON file.*at character \d+ .* was expected, but there is"):
        list(iterate_json(path))


def test_other_files(tmp_path: Path) -> None:
    """Missing file, not UTF-8, nested too deeply."""
    path = tmp_path / "x.json"
    with pytest.raises(DataError, match=r"x\.json cannot be read: No such file"):
        list(iterate_json(path))
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="not UTF-8 text"):
        list(iterate_json(path))
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match="not a JSON file"):
        list(iterate_json(path))
