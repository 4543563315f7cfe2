"""Writes examples/demo.parquet, the prompts of `make demo`: what `tiny` can draw, with settings that differ by row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Prompt, sampler, steps, guidance scale; None means the run's setting.
ROWS = [
    ("a big red circle on white", None, None, None),
    ("a big blue square on gray", None, None, None),
    ("a yellow triangle on black", None, None, None),
    ("a small green cross on pink", None, None, None),
    ("a big purple circle on gray", None, None, None),
    ("an orange square, white background", None, None, None),
    ("a small blue circle on white", "ddim", 25, None),
    ("a big green triangle on gray", "euler", 25, None),
    ("a big yellow cross on black", "euler_a", 30, None),
    ("a small red square on gray", "dpmpp_2m", 20, None),
    ("a big orange triangle on white", "pndm", 30, 5.0),
    ("a purple cross on pink", "dpmpp_2m", 15, None),
    ("a red circle to the left of a blue square, white background", None, None, None),
    ("a yellow triangle above a green circle, black background", None, None, None),
    ("a blue cross to the right of a red triangle, gray background", None, None, None),
    ("a purple square below an orange circle, white background", None, None, None),
    ("a green square to the left of a yellow cross, pink background", None, None, None),
    ("a big red triangle above a big blue circle, gray background", None, None, None),
    ("a big red cross on white", "ddpm", 100, 3.0),
    ("a big red cross on white", "ddim", 10, 5.0),
    ("a big blue triangle on pink", None, None, 5.0),
    ("a small yellow square on black", None, None, 5.0),
    ("a big green circle on white", "dpmpp_2m", 20, 4.0),
    ("a big orange cross on gray", "dpmpp_2m", 20, 6.0),
]


def main() -> None:
    prompts, samplers, steps, scales = zip(*ROWS, strict=True)
    table = pa.table(
        {
            "prompt": pa.array(prompts, pa.string()),
            "sampler": pa.array(samplers, pa.string()),
            "steps": pa.array(steps, pa.int32()),
            "guidance_scale": pa.array(scales, pa.float32()),
            "seed": pa.array(range(len(ROWS)), pa.int64()),
        }
    )
    pq.write_table(table, Path(__file__).with_name("demo.parquet"))


if __name__ == "__main__":
    main()
