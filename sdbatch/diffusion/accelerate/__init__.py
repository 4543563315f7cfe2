"""Makes passes faster. Modules that change pictures say so."""
