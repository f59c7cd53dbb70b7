"""From text on disk to pairs of token ids: reading in a stream, handlers, many processes, resuming."""
