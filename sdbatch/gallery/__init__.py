"""The gallery page and the contact sheet of a dataset."""

from sdbatch.gallery.pages import write_gallery
from sdbatch.gallery.sheet import write_sheet

__all__ = ["write_gallery", "write_sheet"]
