"""From text on disk to pairs of token ids: reading in a stream, handlers, many processes, resuming."""

from mindformers_glm.data.preprocess import handlers, instructions  # noqa: F401 - they register
