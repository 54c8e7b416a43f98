"""Exported models: a folder for OpenVINO in float32 or int8, and one file for ONNX Runtime and other tools."""
