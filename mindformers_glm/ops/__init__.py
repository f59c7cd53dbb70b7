"""The formulas of the network, each behind one function that a device kernel may replace."""
