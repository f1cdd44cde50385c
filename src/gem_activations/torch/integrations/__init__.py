"""The names of the catalog in transformers and timm."""
