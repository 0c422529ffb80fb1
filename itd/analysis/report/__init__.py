"""All answers of some results on one self-contained HTML page. No network is needed to look at it, nor to make it."""

from itd.analysis.report.gallery import gallery_link, images_page
from itd.analysis.report.page import check_page_path, render, write_page
from itd.analysis.report.parts import Section, Table
from itd.analysis.report.sections import Report, report

__all__ = [
    "Report",
    "Section",
    "Table",
    "check_page_path",
    "gallery_link",
    "images_page",
    "render",
    "report",
    "write_page",
]
