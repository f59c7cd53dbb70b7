"""Training: one step, the loop around it, and the run modes built on both."""
