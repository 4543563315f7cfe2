"""Training of what ships inside; not part of the wheel."""
