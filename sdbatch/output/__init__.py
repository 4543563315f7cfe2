"""The output folder: layouts, metadata, markers, the manifest; status, verify, remake."""

from sdbatch.output.keys import finished_shards, image_key, marker_name, shard_name
from sdbatch.output.outcomes import ModelLabel
from sdbatch.output.stats import DamagedMarker, ShardStats, read_marker
from sdbatch.output.writer import ShardWriter

__all__ = [
    "DamagedMarker",
    "ModelLabel",
    "ShardStats",
    "ShardWriter",
    "finished_shards",
    "image_key",
    "marker_name",
    "read_marker",
    "shard_name",
]
