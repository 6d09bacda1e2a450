"""Showing: terminal tables, figures and the report page, from records only; imports neither torch nor an attack."""

from wassertight.report.embedding import stored_arrays
from wassertight.report.flows import flow_figure, save_flow_figure
from wassertight.report.page import write_page
from wassertight.report.plots import bracket_figure, save_figure
from wassertight.report.radii import radii_figure, save_radii_figure
from wassertight.report.tables import brackets_table, claim_table, freedoms_table, heaviest_lines, results_table

__all__ = [
    "bracket_figure",
    "brackets_table",
    "claim_table",
    "flow_figure",
    "freedoms_table",
    "heaviest_lines",
    "radii_figure",
    "results_table",
    "save_figure",
    "save_flow_figure",
    "save_radii_figure",
    "stored_arrays",
    "write_page",
]
