"""Looking at a dataset: the gallery page and the contact sheet."""

from sdbatch.gallery.pages import write_gallery
from sdbatch.gallery.sheet import write_sheet

__all__ = ["write_gallery", "write_sheet"]
