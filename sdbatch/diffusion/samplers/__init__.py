"""Samplers: names, and schedulers compiled into coefficients."""
