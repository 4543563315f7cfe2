"""Looking at a dataset: the gallery page and the contact sheet."""
