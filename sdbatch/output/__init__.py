"""The output folder: layouts, metadata, markers, the manifest; status, verify, remake.

writer.py           writes a shard, its marker last       layouts.py          how each layout stores a shard
stored.py           reads a shard of any layout           dataset.py          reads an output as a dataset
metadata.py         a shard's metadata                    parameters.py       the parameters in an image file
encoding.py         pixels as image files                 outcomes.py         from the engine's result to both
markers.py          markers: their content, read, written keys.py             names of shards and images
manifest.py         what OUT records of its run           manifest_files.py   run.json and the files that extend it
continuation.py     whether a run may continue OUT        footprint.py        which files belong to OUT
status.py           what is done                          removal.py          removes replaced files
verify.py           checks images and metadata            check.py            checks one shard
remake.py           makes images again                    as_input.py         an output as the table of a run
score_run.py        scores an existing output             scores.py           writes the scores of its shards
export.py           images for other tools                export_forms.py     their formats
"""

from sdbatch.output.keys import finished_shards, image_key, marker_name, shard_name
from sdbatch.output.markers import DamagedMarker, ShardStats, read_marker
from sdbatch.output.outcomes import ModelLabel
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
