"""Models of other programs: ONNX files, Hugging Face, timm and RobustBench; each imported only when it is named."""
