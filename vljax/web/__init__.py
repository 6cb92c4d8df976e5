"""HTML pages as single files that load nothing from elsewhere."""

from vljax.web.markup import Markup, element
from vljax.web.page import page, picture

__all__ = ["Markup", "element", "page", "picture"]
