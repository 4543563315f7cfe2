"""The second stage: a CLIPTextModel that learns a scene's things and places from its caption.

This needs no pictures, so it takes minutes. The denoiser then trains it further together with itself, and starts
with a text encoder that knows colours, shapes and places.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdbatch.tiny.captions import caption
from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene
from training.tiny.tokenizer import CONTEXT
from training.tiny.training import Run, fast_arithmetic, training_scenes

__all__ = ["WIDTH", "SceneHead", "answers", "new_text_encoder", "tokenize", "train_text_encoder"]

WIDTH = 128
BATCH = 256
PEAK_RATE = 1e-3
PLACES = {"": (0,), "across": (1, 2), "down": (3, 4)}  # middle, left, right, top, bottom
ATTRIBUTES = (tuple(SHAPES), tuple(COLOURS), SIZES)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, int64 (B, CONTEXT), padded and truncated as in diffusers."""
    return tokenizer(captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids


class SceneHead(nn.Module):
    """A linear classifier of the scene on the mean of the text's hidden states; discarded after training."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [len(names) + 1 for _ in range(5) for names in ATTRIBUTES] + [len(BACKGROUNDS)]
        self.linear = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of each place's attributes (0: nothing there), and of the ground, from (B, L, WIDTH)."""
        return self.linear(hidden.mean(1)).float().split(self.sizes, dim=1)

    def loss(self, hidden: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy against `answers`, int64 (B, 16)."""
        logits = self.forward(hidden)
        return torch.stack([F.cross_entropy(*pair) for pair in zip(logits, answers.T, strict=True)]).mean()


def answers(scenes: list[Scene]) -> torch.Tensor:
    """The head's targets for each scene, int64 (B, 16)."""
    rows = []
    for scene in scenes:
        row = [0] * 15 + [list(BACKGROUNDS).index(scene.background)]
        for place, thing in zip(PLACES[scene.axis], scene.things, strict=True):
            said = (thing.shape, thing.colour, thing.size)
            row[3 * place : 3 * place + 3] = [
                names.index(name) + 1 for names, name in zip(ATTRIBUTES, said, strict=True)
            ]
        rows.append(row)
    return torch.tensor(rows)


def train_text_encoder(
    work: Path, tokenizer: CLIPTokenizer, steps: int, seed: int
) -> tuple[CLIPTextModel, SceneHead, dict[str, float]]:
    """The text encoder and its head after `steps` batches, and the record; resumes from `work`."""
    torch.manual_seed(seed)
    encoder, head = new_text_encoder(tokenizer), SceneHead()
    both = nn.ModuleList([encoder, head])
    run = Run("text", both, work, steps, BATCH, seed, PEAK_RATE)
    pools = training_scenes(1), training_scenes(2)
    for _, rng, _ in run:
        scenes = [rng.choice(pools[rng.random() < 0.7]) for _ in range(BATCH)]
        tokens = tokenize(tokenizer, [caption(scene, rng) for scene in scenes])
        with fast_arithmetic(both):
            loss = head.loss(encoder(tokens).last_hidden_state, answers(scenes))
        run.update(loss, {"loss": loss.item()})
    both.load_state_dict(run.average)
    return encoder, head, run.record()
