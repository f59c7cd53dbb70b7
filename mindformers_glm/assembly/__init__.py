"""The one road from a name, folder, file or YAML to a network with its weights, a tokenizer and data."""
