"""What each published way of scoring counts, as one table of declarations.

Numbers of two protocols cannot be compared with each other. docs/evaluation.md says which papers use which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from refersam.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Cut:
    """Which pixels of a mask are positive.

    Attributes:
        scale: what is compared: the logit, or the probability (its sigmoid, float32). Both after resizing.
        threshold: compared with.
        inclusive: a pixel exactly at the threshold is positive.
    """

    scale: Literal["logit", "probability"]
    threshold: float
    inclusive: bool

    def __call__(self, values: Any) -> Any:
        """Values of an array or tensor, on the scale of this cut -> bool, positive pixels."""
        return values >= self.threshold if self.inclusive else values > self.threshold


@dataclass(frozen=True, slots=True)
class Rule:
    """How a sample counts.

    Attributes:
        iou: what goes into the mean: "ratio" for intersection over union, a fixed value, None for nothing.
        intersection: its intersection goes into the sum.
        union: its union goes into the sum.
    """

    iou: Literal["ratio"] | float | None
    intersection: bool
    union: bool


RATIO = Rule("ratio", intersection=True, union=True)
LEFT_OUT = Rule(None, intersection=False, union=False)

Case = tuple[bool, bool]
"""(the phrase has a target, the prediction is judged to have one)"""


def _rules(
    *, target_some: Rule, target_none: Rule, none_some: Rule | None = None, none_none: Rule | None = None
) -> Mapping[Case, Rule]:
    """Named by truth first, judgement second; None for what the protocol cannot judge.

    A plain dictionary: a protocol goes to worker processes, and a MappingProxyType cannot be pickled.
    """
    cases = {(True, True): target_some, (True, False): target_none, (False, True): none_some, (False, False): none_none}
    return {case: rule for case, rule in cases.items() if rule is not None}


TARGETS_ONLY = _rules(target_some=RATIO, target_none=RATIO)
NO_TARGET_LEFT_OUT = _rules(target_some=RATIO, target_none=RATIO, none_some=LEFT_OUT, none_none=LEFT_OUT)
GENERALIZED = _rules(
    target_some=RATIO,
    target_none=Rule(0.0, intersection=False, union=True),  # the mask is not cleared: its pixels stay in the union
    none_some=Rule(0.0, intersection=False, union=True),
    none_none=Rule(1.0, intersection=False, union=False),
)


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way of scoring.

    Attributes:
        name: as the command line takes it.
        title: in a few words.
        side: prediction and target are compared at side x side pixels; None for the image's own size.
        cut: positive pixels of a model's answer.
        rules: how each case counts; what is missing cannot be judged.
        metrics: names of `summary.METRICS`, in the order of the table.
        empty_iou: intersection over union where prediction and target are both empty.
        union_epsilon: added to the union of each sample's ratio.
        precision: thresholds of Pr@X, over phrases with a target.
        precision_inclusive: an IoU of exactly X counts.
        polygons_scaled: at a fixed size, polygons are scaled and then rasterised; all other targets are rasterised at
            the image's size and resized by nearest neighbour.
        crowds: annotations of crowds are part of the target.
        judged: the no-target decision has a part in it; it is the model's own, or an empty mask for one without.
        note: said under the numbers where a sample has an empty union.
    """

    name: str
    title: str
    side: int | None
    cut: Cut
    rules: Mapping[Case, Rule] = field(repr=False)
    metrics: tuple[str, ...]
    empty_iou: float
    union_epsilon: float = 0.0
    precision: tuple[float, ...] = ()
    precision_inclusive: bool = True
    polygons_scaled: bool = False
    crowds: bool = True
    judged: bool = False
    note: str = ""

    @property
    def takes_no_target(self) -> bool:
        """Whether phrases without a target can be judged."""
        return (False, True) in self.rules

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels at which an image of the given size is compared."""
        return (height, width) if self.side is None else (self.side, self.side)

    def settings(self) -> dict[str, Any]:
        """Every declaration, as JSON takes it."""
        names = [each.name for each in fields(self) if each.name not in ("cut", "rules", "note")]
        cases = {
            f"{'target' if target else 'no target'} / {'some' if some else 'none'}": asdict(rule)
            for (target, some), rule in self.rules.items()
        }
        return {name: getattr(self, name) for name in names} | {"cut": asdict(self.cut), "rules": cases}


_FIVE = (0.5, 0.6, 0.7, 0.8, 0.9)
_LOGIT_ABOVE_0 = Cut("logit", 0.0, inclusive=False)
_LOGIT_FROM_0 = Cut("logit", 0.0, inclusive=True)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="original",
                title="RefCOCO at the image's own size",
                side=None,
                cut=_LOGIT_FROM_0,
                rules=TARGETS_ONLY,
                metrics=("oIoU", "mIoU", "Pr"),
                empty_iou=1.0,
                precision=_FIVE,
            ),
            Protocol(
                name="lavt",
                title="RefCOCO at 480 x 480",
                side=480,
                cut=_LOGIT_ABOVE_0,
                rules=TARGETS_ONLY,
                metrics=("oIoU", "mIoU", "Pr"),
                empty_iou=0.0,
                precision=_FIVE,
            ),
            Protocol(
                name="caris",
                title="RefCOCO at 448 x 448",
                side=448,
                cut=Cut("probability", 0.5, inclusive=True),
                rules=TARGETS_ONLY,
                metrics=("oIoU", "mIoU", "Pr"),
                empty_iou=0.0,
                precision=(0.5, 0.7, 0.9),
                note="have no pixel, neither predicted nor true: the published code gives NaN there, here it is 0.",
            ),
            Protocol(
                name="cris",
                title="RefCOCO at the image's own size, probability above 0.35",
                side=None,
                cut=Cut("probability", 0.35, inclusive=False),
                rules=TARGETS_ONLY,
                metrics=("mIoU", "Pr"),
                empty_iou=0.0,
                union_epsilon=1e-6,
                precision=_FIVE,
                precision_inclusive=False,
            ),
            Protocol(
                name="evf",
                title="RefCOCO at the image's own size, without Pr@X",
                side=None,
                cut=_LOGIT_ABOVE_0,
                rules=TARGETS_ONLY,
                metrics=("oIoU", "mIoU"),
                empty_iou=1.0,
            ),
            Protocol(
                name="gres",
                title="gRefCOCO at 480 x 480: several targets, or none",
                side=480,
                cut=_LOGIT_ABOVE_0,
                rules=GENERALIZED,
                metrics=("gIoU", "cIoU", "Pr", "N-acc", "T-acc"),
                empty_iou=0.0,
                precision=(0.7, 0.8, 0.9),
                polygons_scaled=True,
                crowds=False,
                judged=True,
            ),
            Protocol(
                name="ref-zom",
                title="Ref-ZOM at 480 x 480: one target, many, or none",
                side=480,
                cut=_LOGIT_ABOVE_0,
                rules=NO_TARGET_LEFT_OUT,
                metrics=("oIoU", "mIoU", "Pr", "Acc"),
                empty_iou=0.0,
                precision=_FIVE,
            ),
            Protocol(
                name="sceneref",
                title="SceneRef at the image's own size",
                side=None,
                cut=_LOGIT_FROM_0,
                rules=NO_TARGET_LEFT_OUT,
                metrics=("oIoU", "mIoU", "Pr", "N-acc", "false alarms"),
                empty_iou=1.0,
                precision=_FIVE,
                judged=True,
            ),
        )
    }
)

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "refcoco": "original",
        "refcoco+": "original",
        "refcocog": "original",
        "grefcoco": "gres",
        "refzom": "ref-zom",
        "refcoco-m": "original",
        "sceneref": "sceneref",
    }
)
"""By data set. For any other: `gres` where a phrase has no target, else `original`."""


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def default_protocol(dataset: str, has_target: Iterable[bool]) -> Protocol:
    """The protocol that a data set is scored by where none is named.

    Args:
        dataset: its name.
        has_target: of each phrase; looked at for unknown names only.
    """
    return PROTOCOLS[DEFAULTS.get(dataset) or ("original" if all(has_target) else "gres")]


def check_protocol(protocol: Protocol, has_target: Iterable[bool]) -> None:
    """Refuse data that a protocol says nothing about.

    Args:
        protocol: to score by.
        has_target: of each phrase.

    Raises:
        DataError: phrases without a target, and a protocol that has no rule for them.
    """
    flags = list(has_target)
    without = len(flags) - sum(flags)
    if without and not protocol.takes_no_target:
        able = ", ".join(name for name, other in PROTOCOLS.items() if other.takes_no_target)
        raise DataError(
            f"The protocol {protocol.name} has no rule for phrases without a target, but {without} of {len(flags)} "
            f"have none: choose one of {able}."
        )
