"""Metrics of referring image segmentation, counted in integers of pixels, by the protocols of the benchmarks."""

from refersam.metrics.calibration import Calibration, CalibrationBin, calibration
from refersam.metrics.protocols import PROTOCOLS, Protocol, check_protocol, default_protocol, get_protocol
from refersam.metrics.results import SampleResult, Score, compare_masks, judge_target, score_sample, score_samples
from refersam.metrics.summary import mean_iou_by_tag, sum_pixels, summarise

__all__ = [
    "PROTOCOLS",
    "Calibration",
    "CalibrationBin",
    "Protocol",
    "SampleResult",
    "Score",
    "calibration",
    "check_protocol",
    "compare_masks",
    "default_protocol",
    "get_protocol",
    "judge_target",
    "mean_iou_by_tag",
    "score_sample",
    "score_samples",
    "sum_pixels",
    "summarise",
]
