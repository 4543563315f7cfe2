"""Pictures that rows bring: decoded, encoded once a content."""
