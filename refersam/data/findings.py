"""Problems of a data set, collected during reading and reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from refersam.errors import DataError, counted


class Severity(IntEnum):
    """Severity of a problem."""

    NOTE = 0
    """Known or harmless."""
    WARNING = 1
    """The data set can be used, but its scores may be misleading."""
    ERROR = 2
    """The data set cannot be used."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A problem: severity, a kind that groups similar ones, and one sentence that names the file and the record."""

    severity: Severity
    kind: str
    message: str


def raise_errors(findings: Iterable[Finding], what: str, advice: str, most: int = 3) -> None:
    """Raise one DataError for all findings of severity ERROR, if any.

    Args:
        findings: findings of any severity.
        what: beginning of the message ("refcoco, split val").
        advice: end of the message.
        most: number of findings that the message includes in full.
    """
    errors = [finding.message for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        more = f" And {len(errors) - most} more." if len(errors) > most else ""
        count = counted(len(errors), "error")
        raise DataError(f"{what} cannot be used ({count}): {' '.join(errors[:most])}{more} {advice}")
