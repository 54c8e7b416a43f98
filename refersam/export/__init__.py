"""Models that leave Python: one file for ONNX Runtime, in float32 or int8."""
