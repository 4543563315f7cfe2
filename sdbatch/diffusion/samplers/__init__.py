"""Samplers: names, and schedulers compiled into tables of coefficients."""
