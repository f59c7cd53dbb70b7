"""Work divided among processes: who does what (mesh), how results meet (collectives), and the parts built from both."""
