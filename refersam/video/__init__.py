"""Segmentation of videos, frame by frame."""
