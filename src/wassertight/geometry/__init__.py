"""Norms, dual directions, projections and sampling: geometry without a model."""

from wassertight.geometry.hyperplanes import closest_on_hyperplane
from wassertight.geometry.norms import conjugate, dual_direction, norm, norm_name
from wassertight.geometry.projections import project_ball, project_box, project_l1_ball, project_l1_ball_and_box
from wassertight.geometry.sampling import sample_ball

__all__ = [
    "closest_on_hyperplane",
    "conjugate",
    "dual_direction",
    "norm",
    "norm_name",
    "project_ball",
    "project_box",
    "project_l1_ball",
    "project_l1_ball_and_box",
    "sample_ball",
]
