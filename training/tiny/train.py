"""Trains `tiny` from nothing to a folder in diffusers' layout.

    python -m training.tiny.train --work tiny-training

Four stages: the autoencoder, the text encoder on captions alone, text encoder and UNet together, and the
decoder once more. It can be killed at any time; the same command resumes from the last checkpoint in the work folder.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.tiny.autoencoder import train_autoencoder, train_decoder
from training.tiny.card import Record, write_card
from training.tiny.denoiser import encode_pool, new_scheduler, train_denoiser
from training.tiny.drawing import draw
from training.tiny.judge import MODEL, Scores, describe, judge, load, questions, scores
from training.tiny.text import train_text_encoder
from training.tiny.tokenizer import new_tokenizer

__all__ = ["assemble", "main", "save"]


def assemble(
    vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Writes the folder: UNet and VAE as float16, the small text encoder as float32.

    The tokenizer is written twice: as tokenizer.json, and as the two files that transformers 4 reads.
    """
    # Otherwise the settings of the tokenizer's last call would be saved with it.
    pipeline.tokenizer.backend_tokenizer.no_truncation()
    pipeline.tokenizer.backend_tokenizer.no_padding()
    pipeline.save_pretrained(folder)
    pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    for name in ("unet", "vae"):
        copy.deepcopy(getattr(pipeline, name)).half().save_pretrained(folder / name)


@torch.no_grad()
def judge_autoencoder(vae: AutoencoderKL, count: int) -> Scores:
    """The reader's results for held-out scenes that were only encoded and decoded."""
    asked = questions(count)
    pictures = draw([scene for scene, _ in asked], random.Random(0))
    decoded = vae.decode(vae.encode(pictures * 2 - 1).latent_dist.mean).sample
    pixels = (decoded.clamp(-1, 1) + 1).mul(127.5).round().byte().permute(0, 2, 3, 1)
    return scores(asked, list(pixels.numpy()))


def finish(pipeline: StableDiffusionPipeline, folder: Path, record: Record) -> None:
    """Saves the model, and scores and describes what was saved."""
    save(pipeline, folder)
    pipeline = load(folder)
    record.scores["500 scenes encoded and decoded"] = judge_autoencoder(pipeline.vae, 500)
    for count, sampler, steps, guidance in (
        (500, "ddpm", 50, 7.5),
        (500, "dpmpp_2m", 20, 7.5),
        (100, "ddpm", 50, 1.0),
    ):
        asked = f"{count} pictures, {sampler}, {steps} steps, guidance {guidance}"
        record.scores[asked] = judge(pipeline, count, sampler, steps, guidance)
        print(f"{asked}: {describe(record.scores[asked])}", flush=True)
    write_card(folder, record)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.tiny.train", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="where checkpoints are kept")
    parser.add_argument("--out", type=Path, default=MODEL, help="the model folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-steps", type=int, default=2_000)
    parser.add_argument("--text-steps", type=int, default=700)
    parser.add_argument("--steps", type=int, default=26_000, help="of text encoder and UNet together")
    parser.add_argument("--decoder-steps", type=int, default=1_200)
    parser.add_argument("--remark", default="", help="a sentence for the model card")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    stages = f"--autoencoder-steps {chosen.autoencoder_steps} --text-steps {chosen.text_steps}"
    command = f"python -m training.tiny.train {stages} --steps {chosen.steps}"
    command = f"{command} --decoder-steps {chosen.decoder_steps} --seed {chosen.seed}"
    record = Record(command, f"{os.cpu_count()} CPU cores", chosen.remark)
    tokenizer = new_tokenizer()
    vae, record.stages["autoencoder"] = train_autoencoder(chosen.work, chosen.autoencoder_steps, chosen.seed)
    print(f"  {describe(judge_autoencoder(vae, 200))}", flush=True)
    encoder, head, record.stages["text encoder"] = train_text_encoder(
        chosen.work, tokenizer, chosen.text_steps, chosen.seed
    )
    pools = encode_pool(vae, chosen.seed)

    def look(encoder: CLIPTextModel, unet: UNet2DConditionModel, step: int) -> None:
        pipeline = assemble(vae, encoder, tokenizer, unet)
        for guidance in (3.0, 7.5):
            result = judge(pipeline, 32, "ddim", 20, guidance)
            print(f"  step {step}, guidance {guidance}: {describe(result)}", flush=True)
        save(pipeline, chosen.work / "model")

    text = (encoder, head)
    encoder, unet, record.stages["text encoder and UNet"] = train_denoiser(
        chosen.work, pools, tokenizer, text, chosen.steps, chosen.seed, look
    )
    record.stages["decoder"] = train_decoder(chosen.work, vae, chosen.decoder_steps, chosen.seed)
    finish(assemble(vae, encoder, tokenizer, unet), chosen.out, record)


if __name__ == "__main__":
    main()
