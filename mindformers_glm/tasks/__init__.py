"""What a run does: train and fine-tune, evaluate, predict, export - and the Trainer that Python calls."""
