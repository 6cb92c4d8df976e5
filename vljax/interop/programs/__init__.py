"""Encoders exported as programs: StableHLO and ONNX."""
