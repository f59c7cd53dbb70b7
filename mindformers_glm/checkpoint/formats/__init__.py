"""Bytes of files as tables of tensors, and back: one module a format, and folders that appear whole."""
