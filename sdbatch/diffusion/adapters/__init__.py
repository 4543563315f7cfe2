"""What rows add to the model: files and networks that a row names, applied in the passes that all rows share."""
