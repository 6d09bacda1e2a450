"""Discrete measures, their transport cost, and the exact outer problem: how to spend a Wasserstein budget."""

from wassertight.transport.allocation import Allocation, FlipDistances
from wassertight.transport.costs import mean_cost, sample_distances
from wassertight.transport.majorants import SegmentAllocation, allocate_segments
from wassertight.transport.measures import DiscreteMeasure

__all__ = [
    "Allocation",
    "DiscreteMeasure",
    "FlipDistances",
    "SegmentAllocation",
    "allocate_segments",
    "mean_cost",
    "sample_distances",
]
