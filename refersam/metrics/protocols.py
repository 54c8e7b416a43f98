"""Published evaluation protocols, declared in one table.

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
    """Rule that decides which pixels of a mask are positive.

    Attributes:
        scale: quantity that is compared: logit, or probability (its sigmoid in float32), both after resizing.
        threshold: value to compare with.
        inclusive: whether a pixel exactly at the threshold is positive.
    """

    scale: Literal["logit", "probability"]
    threshold: float
    inclusive: bool

    def __call__(self, values: Any) -> Any:
        """Return the positive pixels (bool) of an array or tensor of values on this scale."""
        return values >= self.threshold if self.inclusive else values > self.threshold


@dataclass(frozen=True, slots=True)
class Rule:
    """Contribution of a sample to the sums.

    Attributes:
        iou: contribution to the mean: "ratio" for intersection over union, a fixed value, or None.
        intersection: whether its intersection is added to the sum.
        union: whether its union is added to the sum.
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
    """Return the rules by truth and judgement; None for cases that the protocol cannot judge.

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
    """Evaluation protocol.

    Attributes:
        name: name on the command line.
        title: short description.
        side: prediction and target are compared at side x side pixels; None for the image's own size.
        cut: positive pixels of a model's answer.
        rules: contribution of each case; missing cases cannot be judged.
        metrics: names in `summary.METRICS`, in the order of the table.
        empty_iou: intersection over union where prediction and target are both empty.
        union_epsilon: added to the union of each sample's ratio.
        precision: thresholds of Pr@X, over phrases with a target.
        precision_inclusive: whether an IoU of exactly X counts.
        polygons_scaled: at a fixed size, polygons are scaled and then rasterised; all other targets are rasterised at
            the image's size and resized by nearest neighbour.
        crowds: whether annotations of crowds belong to the target.
        judged: whether the no-target decision counts: the model's own, or an empty mask for a model without one.
        note: note below the numbers if a sample has an empty union.
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
        """Return whether phrases without a target can be judged."""
        return (False, True) in self.rules

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) in pixels at which an image of the given size is compared."""
        return (height, width) if self.side is None else (self.side, self.side)

    def settings(self) -> dict[str, Any]:
        """Return all declarations in JSON types."""
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
    """Return the protocol of a name.

    Raises:
        UsageError: unknown name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def default_protocol(dataset: str, has_target: Iterable[bool]) -> Protocol:
    """Return the default protocol of a data set.

    Args:
        dataset: name of the data set.
        has_target: whether each phrase has a target; used for unknown names only.
    """
    return PROTOCOLS[DEFAULTS.get(dataset) or ("original" if all(has_target) else "gres")]


def check_protocol(protocol: Protocol, has_target: Iterable[bool]) -> None:
    """Check that a protocol can judge the data.

    Args:
        protocol: evaluation protocol.
        has_target: whether each phrase has a target.

    Raises:
        DataError: there are phrases without a target, but the protocol has no rule for them.
    """
    flags = list(has_target)
    without = len(flags) - sum(flags)
    if without and not protocol.takes_no_target:
        able = ", ".join(name for name, other in PROTOCOLS.items() if other.takes_no_target)
        raise DataError(
            f"The protocol {protocol.name} has no rule for phrases without a target, but {without} of {len(flags)} "
            f"have none: choose one of {able}."
        )
