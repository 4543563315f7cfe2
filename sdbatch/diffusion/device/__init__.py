"""The device that an engine runs on: its memory, its rounding, its checks."""
