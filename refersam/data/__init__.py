"""Datasets of images with phrases and masks: benchmarks, custom data and synthetic scenes."""

from refersam.data.datasets import DATASETS, open_dataset
from refersam.data.index import ReferringDataset
from refersam.data.sample import ImageRecord, ReferringImage, ReferringSample

__all__ = ["DATASETS", "ImageRecord", "ReferringDataset", "ReferringImage", "ReferringSample", "open_dataset"]
