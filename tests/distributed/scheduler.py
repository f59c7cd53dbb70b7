"""The process that brings ranks together."""

from mindformers_glm.runtime import serve_as_scheduler

serve_as_scheduler()
