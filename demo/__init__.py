"""The demos: `make demo`, `make demo-chat`, `make demo-serve`. A Python that cannot run them is told in one line."""

from mindformers_glm.requirements import require

require()
