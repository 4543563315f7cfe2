"""Input pictures: decoded, and encoded once per content."""
