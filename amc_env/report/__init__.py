"""A page about one or several runs, in a single file that needs no network."""

from amc_env.report.details import Details, details_of
from amc_env.report.page import write_report

__all__ = ["Details", "details_of", "write_report"]
