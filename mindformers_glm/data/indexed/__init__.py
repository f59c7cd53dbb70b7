"""Corpora of token ids on disk, in Megatron's form: writing, reading, order of samples, blending."""
