"""What happens when workers fail. Policy, without Ray.

shard_attempts.py  shards that lost their worker     worker_health.py  workers whose engine fails
startup.py         workers that do not start         watchdog.py       workers that make no progress
findings.py        failed device checks              same_device.py    whether two devices are of one kind
avoided_nodes.py   nodes that get no worker
gate.py            which shards may start            same_packages.py  whether a worker knows the rows' settings
"""
