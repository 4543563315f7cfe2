"""Checks sdbatch on a GPU: correctness, then speed, in stages of under nine minutes each.

    python benchmarks/gpu.py check|sd15|sdxl|mixed|lora|klein [--out gpu-results]   on a machine with a CUDA device
    python benchmarks/gpu.py lanes|vae|attention|convolutions|start [--out gpu-results]   single choices, side by side
    python benchmarks/gpu.py blocks-sd15|blocks-klein [--out gpu-results]           --compile blocks against on
    python benchmarks/gpu.py fp8-sd15|fp8-sdxl|fp8-klein [--out gpu-results]        compute capability 8.9 or newer
    python benchmarks/gpu.py report [--out gpu-results]                             the section of RESULTS.md, on stdout
    python benchmarks/gpu.py --smoke                                                every stage on a CPU, small models

Needs torch, diffusers, transformers, scipy, pyarrow, pandas, pytest, and peft to compare `lora` with diffusers; neither
Ray nor weights. Each figure is printed and stored as soon as it is known, the most valuable first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_speed  # noqa: E402
from gpu_bench import Bench  # noqa: E402
from gpu_blocks import BLOCKS_STAGES  # noqa: E402
from gpu_check import check, digest  # noqa: E402
from gpu_choices import CHOICE_STAGES  # noqa: E402
from gpu_fp8 import FP8_STAGES  # noqa: E402
from gpu_report import markdown  # noqa: E402
from gpu_shortage import SHORTAGES, shortage  # noqa: E402

STAGES = {
    "check": check,
    "sd15": gpu_speed.sd15,
    "sdxl": gpu_speed.sdxl,
    "mixed": gpu_speed.mixed,
    "lora": gpu_speed.lora,
    "klein": gpu_speed.klein,
    **CHOICE_STAGES,
    **BLOCKS_STAGES,
    **FP8_STAGES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=[*STAGES, "report", "digest", "shortage"])
    parser.add_argument("part", nargs="?", choices=SHORTAGES, help="of `shortage`; `check` runs it, and `digest`")
    parser.add_argument("--smoke", action="store_true", help="on a CPU, small models; without a stage, all of them")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    arguments = parser.parse_args()
    if arguments.stage is None and not arguments.smoke:
        parser.error("name a stage, or --smoke")
    if arguments.stage == "digest":
        digest(arguments.smoke)
        return
    if arguments.stage == "shortage":
        shortage(Bench("shortage", arguments.out, arguments.smoke), arguments.part or SHORTAGES[0])
        return
    for stage in STAGES if arguments.stage is None else (arguments.stage,):
        if stage != "report":
            STAGES[stage](Bench(stage, arguments.out, arguments.smoke))
    print(markdown(arguments.out))


if __name__ == "__main__":
    main()
