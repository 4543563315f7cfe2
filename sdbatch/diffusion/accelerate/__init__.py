"""Makes passes faster. Modules that change pictures state it."""
