"""The former place of assembly/rank_state.py."""

from mindformers_glm.assembly.rank_state import Division, LocalState, RankState, whole_shapes

__all__ = ["Division", "LocalState", "RankState", "whole_shapes"]
