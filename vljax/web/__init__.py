"""HTML pages in one file each, which ask for nothing from elsewhere."""

from vljax.web.charts import Bars, bar_chart, heat_map
from vljax.web.markup import Markup, element
from vljax.web.page import page, picture

__all__ = ["Bars", "Markup", "bar_chart", "element", "heat_map", "page", "picture"]
