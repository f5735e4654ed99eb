"""What did a run show? Everything is computed again from the raw files of its folder.

Read in this order: ``run_folder`` (the files), ``facts`` (what a report says), ``build`` (how it is computed),
``words`` (the sentences), ``page`` and its template (report.html), ``terminal`` (the table).
"""

from __future__ import annotations

from bioface_core.report.build import build
from bioface_core.report.facts import Report
from bioface_core.report.page import write_report
from bioface_core.report.terminal import table

__all__ = ["Report", "build", "table", "write_report"]
