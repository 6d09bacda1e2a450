"""Discrete measures, transport cost, divergences, and the exact outer problems: how to spend a budget."""

from wassertight.transport.allocation import Allocation, FlipDistances
from wassertight.transport.costs import mean_cost, sample_distances
from wassertight.transport.divergences import KL, AlphaDivergence, Renyi, divergence_named
from wassertight.transport.joint import JointAllocation, allocate_jointly, flip_table, joint_curve, worst_error
from wassertight.transport.learned import LearnedDual
from wassertight.transport.majorants import SegmentAllocation, allocate_segments
from wassertight.transport.measures import DiscreteMeasure
from wassertight.transport.moves import HardBall, MoveCost, PowerCost, SoftBall
from wassertight.transport.weighting import Divergence, Ending, WorstWeights, weights_at_price, worst_weights

__all__ = [
    "KL",
    "Allocation",
    "AlphaDivergence",
    "DiscreteMeasure",
    "Divergence",
    "Ending",
    "FlipDistances",
    "HardBall",
    "JointAllocation",
    "LearnedDual",
    "MoveCost",
    "PowerCost",
    "Renyi",
    "SegmentAllocation",
    "SoftBall",
    "WorstWeights",
    "allocate_jointly",
    "allocate_segments",
    "divergence_named",
    "flip_table",
    "joint_curve",
    "mean_cost",
    "sample_distances",
    "weights_at_price",
    "worst_error",
    "worst_weights",
]
