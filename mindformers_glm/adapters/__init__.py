"""What is added to a network to fine-tune it with few parameters."""
