"""How prompts are written: weights of words, and texts that are longer than a text encoder's context."""
