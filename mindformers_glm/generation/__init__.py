"""Prompt ids in, new ids out: settings, sampling, beam search, cache, engine. Ids only; text is for tokenizers."""
