"""The report of a run: what its files hold, as one self-contained page."""

from counterpoise.reporting.page import write_report
from counterpoise.reporting.run_files import Run

__all__ = ["Run", "write_report"]
