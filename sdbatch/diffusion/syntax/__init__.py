"""Prompt syntaxes: weights of words, and texts longer than a text encoder's context."""
