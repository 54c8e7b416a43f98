"""Pickles of untrusted origin: plain data is read, everything else is rejected before it is executed."""

from __future__ import annotations

import os
import pickle
import struct
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from refersam.data import pickles
from refersam.data.pickles import plain_pickle_from_bytes, read_plain_pickle
from refersam.errors import DataError, shown

PLAIN = [
    {
        "ref_id": 3,
        "text": "a café",
        "list": [1, -2, 2.5, None, True, False, [], {}, ()],
        "big": 2**40,
        "tuple": (1, 2, 3, 4),
    },
    "x" * 300,
    b"bytes",
    list(range(-300, 70_000, 997)),
    10**18,
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    """Containers, strings, numbers."""
    content = PLAIN if protocol >= 3 else [item for item in PLAIN if not isinstance(item, bytes)]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(content, protocol))
    assert read_plain_pickle(path) == content


def test_many_records() -> None:
    """More instructions than are compared at once, and repeated objects."""
    records = [{"sent": f"phrase {number}", "tokens": ["a", "b"], "sent_id": number} for number in range(3000)]
    for protocol in (0, 2):
        assert plain_pickle_from_bytes(pickle.dumps(records, protocol), "x") == records


def test_python_2_strings_and_numbers() -> None:
    """Protocols 0 and 2 of Python 2: byte strings in UTF-8 or Latin-1, and numbers with the suffix L."""
    utf8 = b"(lp1\n(dp2\nS'sent'\np3\nS'caf\\xc3\\xa9'\np4\nsS'id'\np5\nL12L\nsa."
    assert plain_pickle_from_bytes(utf8, "x") == [{"sent": "café", "id": 12}]
    latin = b"(lp1\nS'caf\\xe9'\np2\naV\\u00e9t\\u00e9\np3\na."
    assert plain_pickle_from_bytes(latin, "x") == ["café", "été"]
    binary = b"\x80\x02]q\x01(U\x04caf\xe9q\x02T\x03\x00\x00\x00abcq\x03\x8a\x01\x05e."
    assert plain_pickle_from_bytes(binary, "x") == ["café", "abc", 5]


@pytest.mark.parametrize("key", [b"U\x05caf\xc3\xa9", b"T\x05\x00\x00\x00caf\xc3\xa9", b"S'caf\\xc3\\xa9'\n"])
def test_each_string_has_its_own_encoding(key: bytes) -> None:
    """UTF-8 and Latin-1 in one file, for all string instructions, in keys and values."""
    latin, utf8 = b"U\x06na\xefve ", b"U\x06\xe2\x82\xac 5\n"
    mixed = b"\x80\x02]q\x01(" + key + latin + utf8 + b"}" + key + latin + b"se."
    assert plain_pickle_from_bytes(mixed, "x") == ["café", "naïve ", "€ 5\n", {"café": "naïve "}]
    both = b"\x80\x02]U\x09caf\xc3\xa9 na\xefa."  # in one string there is one encoding
    assert plain_pickle_from_bytes(both, "x") == ["cafÃ© naï"]


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    """At the start, and nested in plain data."""
    trace = tmp_path / "trace"
    for content in (Attack(trace), [{"ref_id": 1}, {"sentences": [Attack(trace)]}]):
        path = tmp_path / "refs(unc).p"
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(DataError, match=r"refs\(unc\)\.p is refused: byte \d+ .* could run a program"):
            read_plain_pickle(path)
        assert not trace.exists()
    pickle.loads(pickle.dumps(Attack(trace), protocol))
    assert trace.exists(), "the attack should work on an ordinary reader"


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(lp0\n(dp1\ncbuiltins\neval\n.",
        b"Pid\n.",
        b"]Q.",
        b"\x80\x02\x82\x01.",
        pickle.dumps(date(2026, 1, 1)),
        pickle.dumps({1, 2}),
        pickle.dumps(len),
        pickle.dumps(complex(1, 2)),
    ],
)
def test_every_instruction_that_names_or_calls_is_refused(data: bytes) -> None:
    """Globals, instances, persistent ids, extension codes, classes of the standard library, sets."""
    with pytest.raises(DataError, match="x is refused"):
        plain_pickle_from_bytes(data, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # an index of two thousand million: Python would take 34 GB for it
        b"]p2147483647\n.",
        b"]p99999999\n.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8d" + struct.pack("<Q", 2**60) + b"a.",
    ],
)
def test_excessive_memory_is_refused(data: bytes) -> None:
    """A few bytes that request gigabytes."""
    with pytest.raises(DataError, match=r"x is (refused|not a pickle)"):
        plain_pickle_from_bytes(data, "x")


def test_more_than_an_index_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limited in bytes before reading, and in lists, each of which needs a multiple of its bytes."""
    with pytest.raises(DataError, match="x holds more than 16,777,216 lists and dictionaries"):
        plain_pickle_from_bytes(b"(" + b"]" * 2**24 + b"l.", "x")
    assert plain_pickle_from_bytes(b"(" + b"]" * 1000 + b"l.", "x") == [[]] * 1000
    monkeypatch.setattr(pickles, "MAX_BYTES", 2**20)
    (tmp_path / "x.p").write_bytes(bytes(2**20 + 1))
    for read in (lambda: read_plain_pickle(tmp_path / "x.p"), lambda: plain_pickle_from_bytes(bytes(2**20 + 1), "x")):
        with pytest.raises(DataError, match="has more than 1 MB"):
            read()


@pytest.mark.timeout(20)
def test_a_list_that_holds_itself_many_times_is_quoted_at_once() -> None:
    """Forty doublings, which would give 10^12 numbers in full."""
    value: list[object] = [0]
    for _ in range(40):
        value = [value, value]
    assert len(shown(value)) <= 80
    assert len(shown("a" * 200)) == 80
    assert shown("a" * 50) == repr("a" * 50)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cut_off(protocol: int, share: float) -> None:
    """One sentence for every error of the unpickler."""
    data = pickle.dumps([{"a": "some text", "b": [1, 2, 3]}] * 5, protocol)
    with pytest.raises(DataError, match=r"x is (not a pickle|refused)"):
        plain_pickle_from_bytes(data[: int(share * len(data))], "x")


@pytest.mark.parametrize(
    "data", [b"hello world, this is text\n", b"{}", b"PK\x03\x04", b"}(]K\x01u.", b"a.", b"\x80\xff.", b"h\x05."]
)
def test_invalid_pickles(data: bytes) -> None:
    """Text, JSON, an archive, a list as a key, an empty stack, an unknown protocol, an unknown index."""
    with pytest.raises(DataError, match=r"^x is (not a pickle|refused).*\.$"):
        plain_pickle_from_bytes(data, "x")


def test_no_such_file(tmp_path: Path) -> None:
    """A missing file, and a folder."""
    with pytest.raises(DataError, match=r"nowhere\.p cannot be read: No such file"):
        read_plain_pickle(tmp_path / "nowhere.p")
    with pytest.raises(DataError, match="cannot be read"):
        read_plain_pickle(tmp_path)
