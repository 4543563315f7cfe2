"""Training of the packaged model and of the example LoRAs; not part of the wheel."""
