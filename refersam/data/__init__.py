"""Data: images with phrases and masks, of the benchmarks, of one's own, or drawn."""

from refersam.data.datasets import DATASETS, open_dataset
from refersam.data.index import ReferringDataset
from refersam.data.sample import ImageRecord, ReferringImage, ReferringSample

__all__ = ["DATASETS", "ImageRecord", "ReferringDataset", "ReferringImage", "ReferringSample", "open_dataset"]
