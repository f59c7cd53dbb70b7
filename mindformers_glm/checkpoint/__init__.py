"""Weights from every format, in two of our own and the users' others; nothing on disk is ever half a checkpoint."""
