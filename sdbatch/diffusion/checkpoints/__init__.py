"""Reads the files of a model: configurations, weight files and their headers; downloads them from the hub."""
