"""Inference: predictor, queries, runtimes, transformers' pipeline and Auto classes."""
