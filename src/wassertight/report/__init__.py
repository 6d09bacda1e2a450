"""Showing: terminal tables, figures, the report page and the leaderboard, from records only; imports neither torch nor an attack."""

from wassertight.report.embedding import stored_arrays
from wassertight.report.flows import flow_figure, save_flow_figure
from wassertight.report.leaderboard import Leaderboard, LeaderboardRow, read_leaderboard
from wassertight.report.leaderboard_page import write_leaderboard
from wassertight.report.page import write_page
from wassertight.report.plots import bracket_figure, save_figure
from wassertight.report.radii import radii_figure, save_radii_figure
from wassertight.report.tables import brackets_table, claim_table, freedoms_table, heaviest_lines, results_table

__all__ = [
    "Leaderboard",
    "LeaderboardRow",
    "bracket_figure",
    "brackets_table",
    "claim_table",
    "flow_figure",
    "freedoms_table",
    "heaviest_lines",
    "radii_figure",
    "read_leaderboard",
    "results_table",
    "save_figure",
    "save_flow_figure",
    "save_radii_figure",
    "stored_arrays",
    "write_leaderboard",
    "write_page",
]
