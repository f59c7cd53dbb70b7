"""What a label may be besides a token, and what a mean loss is divided by: known here and nowhere else."""

IGNORED = -100  # the label of a position whose prediction does not count
COUNT_EPSILON = 1e-5  # a mean loss is the sum over count + this, as in MindFormers
