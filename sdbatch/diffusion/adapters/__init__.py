"""Adapters that rows name, LoRAs, ControlNets and IP-Adapters, applied in the passes that all rows share."""
