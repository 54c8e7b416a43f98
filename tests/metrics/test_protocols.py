"""Protocols as values that are handed to other processes."""

from __future__ import annotations

import pickle

import pytest

from refersam.metrics.protocols import PROTOCOLS


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_pickled(name: str) -> None:
    """Worker processes that are not forked get their protocol pickled."""
    protocol = PROTOCOLS[name]
    copy = pickle.loads(pickle.dumps(protocol))
    assert copy == protocol
    assert copy.settings() == protocol.settings()
