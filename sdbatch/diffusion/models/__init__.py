"""A model folder: inspected, identified by content, loaded."""
