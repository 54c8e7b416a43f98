"""Segmentation of many images from folders and lists into masks, JSON lines or COCO; resumable."""
