"""FLUX.2-klein (4B, distilled) with random weights in bf16, and a small model of the same kind."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

__all__ = ["build"]

SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
    "time_shift_type": "exponential",
}
TRANSFORMER = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
TEXT = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
# The text reaches the denoiser from layers 9, 18 and 27, side by side: three times the width.
SMALL_TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": (4, 4, 4, 4),
    "guidance_embeds": False,
}
SMALL_TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 28,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SMALL_VAE = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 4,
    "sample_size": 64,
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(*, small: bool) -> Flux2KleinPipeline:
    torch.manual_seed(0)
    text = Qwen3Config(pad_token_id=0, **(SMALL_TEXT if small else TEXT))
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=_filled(lambda: AutoencoderKLFlux2(**(SMALL_VAE if small else {}))),
        text_encoder=_filled(lambda: Qwen3ForCausalLM(text)),
        tokenizer=_tokenizer(),
        transformer=_filled(lambda: Flux2Transformer2DModel(**(SMALL_TRANSFORMER if small else TRANSFORMER))),
        is_distilled=True,
    )


def _filled(make) -> torch.nn.Module:
    """A network in bf16, whose weights are one block of normal numbers over and over: billions take seconds to draw."""
    with torch.device("meta"):
        module = make()
    module = module.to(torch.bfloat16).to_empty(device="cpu")
    block = torch.randn(1 << 22).to(torch.bfloat16)
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        if parameter.ndim < 2:
            flat.fill_(1)
            continue
        scale = parameter[0].numel() ** -0.5
        for start in range(0, flat.numel(), block.numel()):
            part = flat[start : start + block.numel()]
            part.copy_(block[: part.numel()]).mul_(scale)
    for name, buffer in module.named_buffers():
        buffer.fill_(1 if name.endswith("running_var") else 0)
    return module.eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and the marks of a chat; texts are padded to a fixed length in any case."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=512, padding_side="right", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHAT
    return fast
