"""Makes glm2_tiny: a grammar of advertisements and small talk, its tokenizer, and the training run."""
