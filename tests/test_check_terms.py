"""tools/check_terms.py: private phrases are found in prose and names, with line and term."""

from __future__ import annotations

from pathlib import Path

import check_terms
import pytest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two Pictures of it", "Pictures"),
        ("MAX_PICTURE_SIDE = 3", "PICTURE"),
        ("class PictureSize:", "Picture"),
        ("class LabelPicture:", "Picture"),
        ("def number_formats():", "number_formats"),
        ("it is that of the model\nin the box.", "model in the box"),
        ("    # learned by\n    # heart", "by heart"),
        ("> the loss is no\n> number", "is no number"),
    ],
)
def test_phrases_are_found(text: str, found: str) -> None:
    assert [(number, phrase) for number, phrase, _ in check_terms.find_terms(f"\n{text}\n")] == [(2, found)]


@pytest.mark.parametrize(
    "text",
    ["picturesque", "<!-- drawings -->", "a table of numbers", "the number\n\nformats", "draw_scene", "shares outside"],
)
def test_other_words_are_not(text: str) -> None:
    assert not list(check_terms.find_terms(text))


def test_files_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text files only, none in hidden directories; the term to write stands behind the phrase."""
    (tmp_path / ".hidden").mkdir()
    for name in ("a.md", ".hidden/b.md", "c.png", "Makefile"):
        (tmp_path / name).write_text("no\na picture")
    monkeypatch.setattr("sys.argv", ["check_terms.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        check_terms.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{tmp_path / name}:2: picture -> image" for name in ("Makefile", "a.md")]
    (tmp_path / "a.md").write_text("an image")
    (tmp_path / "Makefile").unlink()
    check_terms.main()
    assert capsys.readouterr().out == ""


def test_pages_use_the_terms() -> None:
    """The pages that are in plain English already."""
    root = check_terms.ROOT
    pages = (root / "docs").glob("*.md")
    found = [
        (page.name, *place)
        for page in (*pages, root / "SECURITY.md", root / "CONTRIBUTING.md", root / "mkdocs.yml")
        for place in check_terms.find_terms(page.read_text())
    ]
    assert not found
