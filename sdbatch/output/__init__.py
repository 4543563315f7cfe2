"""The output: layouts on disk, metadata, markers."""

from sdbatch.output.keys import finished_shards, image_key, marker_name, shard_name
from sdbatch.output.stats import ShardStats
from sdbatch.output.writer import ModelLabel, ShardWriter

__all__ = [
    "ModelLabel",
    "ShardStats",
    "ShardWriter",
    "finished_shards",
    "image_key",
    "marker_name",
    "shard_name",
]
