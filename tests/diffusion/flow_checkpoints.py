"""Small random-weight checkpoints of diffusion transformers, built in a second with diffusers' own classes.

All weights are drawn again: as the libraries initialise them, zeros and near-zeros hide what a text does to a picture.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from sdbatch.diffusion.families.lumina_2 import INSTRUCTION
from tests.diffusion import checkpoints

VOCABULARY = 400
SANA_INSTRUCTION = "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
CORPUS = [
    "a red fox in the snow",
    "misty forest at dawn, volumetric light",
    "portrait of a woman, oil painting, 8k",
] * 3
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>"]
DYNAMIC_SHIFT = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
}


def drawn(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module, its weights drawn again, of unit variance after each layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2 or name.endswith("pad_token"):
                fan_in = max(1, parameter[0].numel()) if not name.endswith("pad_token") else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
            elif "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval().requires_grad_(False)


@functools.cache
def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE, trained here; T5's appends an end, Gemma's begins with one, Qwen's and Mistral's know chats.

    Gemma's are one for Lumina and one for Sana, which know the words of the pipelines' instructions: with these, short
    prompts stay short.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    instructions = {"lumina": INSTRUCTION, "gemma": SANA_INSTRUCTION, "mistral": SYSTEM_MESSAGE}
    bpe.train_from_iterator([*CORPUS, *[instructions.get(kind, "")] * 9], trainer)
    if kind == "t5":
        bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    if kind in ("gemma", "lumina"):
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=512, padding_side="right", **names
    )
    if kind == "qwen":
        fast.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n"
            "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
        )
    if kind == "mistral":
        fast.padding_side = "left"
        fast.chat_template = (
            "<s>{% for m in messages %}<|im_start|>{{ m.role }} {% for part in m.content %}{{ part.text }}{% endfor %}"
            "<|im_end|>{% endfor %}"
        )
    return fast


def autoencoder(seed: int = 4, latent_channels: int = 16, blocks: int = 4, **config) -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8, 8, 16, 16)[:blocks],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **config,
    )
    return drawn(vae, seed)


def t5(seed: int = 5, width: int = 32) -> T5EncoderModel:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return drawn(T5EncoderModel(config), seed)


def clip(folder: Path, seed: int, cls: type = CLIPTextModel) -> tuple[transformers.CLIPTokenizer, CLIPTextModel]:
    tokens = checkpoints._tokenizer(folder)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=3,
        projection_dim=32,
        max_position_embeddings=checkpoints.CONTEXT,
        eos_token_id=tokens.eos_token_id,
        bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return tokens, drawn(cls(config), seed)


def build_flux(folder: Path, *, dev: bool = True) -> Path:
    tokens, text_encoder = clip(folder, 1)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC_SHIFT if dev else {"shift": 1.0})),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=text_encoder,
        tokenizer=tokens,
        text_encoder_2=t5(),
        tokenizer_2=tokenizer("t5"),
        transformer=drawn(transformer, 3),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_chroma(folder: Path, **scheduler) -> Path:
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    pipeline = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 1.0} | scheduler)),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=t5(),
        tokenizer=tokenizer("t5"),
        transformer=drawn(transformer, 3),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_sd3(folder: Path, **scheduler) -> Path:
    tokens, first = clip(folder, 1, CLIPTextModelWithProjection)
    _, second = clip(folder, 2, CLIPTextModelWithProjection)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=96,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=24,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=drawn(transformer, 3),
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=first,
        tokenizer=tokens,
        text_encoder_2=second,
        tokenizer_2=tokens,
        text_encoder_3=t5(5, 96),
        tokenizer_3=tokenizer("t5"),
    )
    pipeline.save_pretrained(folder)
    return folder


def qwen3(seed: int = 5, *, layers: int = 4, head: bool = False) -> transformers.PreTrainedModel:
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return drawn((transformers.Qwen3ForCausalLM if head else transformers.Qwen3Model)(config), seed)


def build_klein(folder: Path, *, distilled: bool) -> Path:
    pipeline = Flux2KleinPipeline(
        text_encoder=qwen3(layers=28, head=True), tokenizer=tokenizer("qwen"), is_distilled=distilled, **flux2_parts()
    )
    pipeline.save_pretrained(folder)
    return folder


def build_flux2_dev(folder: Path) -> Path:
    config = transformers.Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 31,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=7,
    )
    encoder = drawn(transformers.Mistral3ForConditionalGeneration(config), 5)
    pipeline = Flux2Pipeline(text_encoder=encoder, tokenizer=tokenizer("mistral"), **flux2_parts(guidance_embeds=True))
    pipeline.save_pretrained(folder)
    return folder


def flux2_parts(*, guidance_embeds: bool = False) -> dict[str, object]:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
    )
    drawn(vae, 4)
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 64))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2, 64))
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=96,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(**DYNAMIC_SHIFT, time_shift_type="exponential")
    return {"scheduler": scheduler, "vae": vae, "transformer": drawn(transformer, 3)}


def gemma2(seed: int = 5, layers: int = 2) -> transformers.Gemma2Model:
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return drawn(transformers.Gemma2Model(config), seed)


def build_lumina_2(folder: Path, **scheduler) -> Path:
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        in_channels=16,
        hidden_size=48,
        num_layers=3,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 64, 64),
        cap_feat_dim=32,
    )
    pipeline = Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 6.0} | scheduler)),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=gemma2(layers=3),
        tokenizer=tokenizer("lumina"),
        transformer=drawn(transformer, 3),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_z_image(folder: Path) -> Path:
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=64,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=3.0),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=qwen3(),
        tokenizer=tokenizer("qwen"),
        transformer=drawn(transformer, 3),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_qwen_image(folder: Path) -> Path:
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1 * i - 0.8 for i in range(16)],
        latents_std=[1 + 0.1 * i for i in range(16)],
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2], "rope_type": "default"},
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32},
        image_token_id=7,
        video_token_id=8,
        vision_start_token_id=9,
        vision_end_token_id=10,
    )
    scheduler = DYNAMIC_SHIFT | {"max_shift": 0.9, "max_image_seq_len": 8192, "shift": 1.0, "shift_terminal": 0.02}
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=drawn(vae, 4),
        text_encoder=drawn(transformers.Qwen2_5_VLForConditionalGeneration(config), 5),
        tokenizer=tokenizer("qwen"),
        transformer=drawn(transformer, 3),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_pixart(folder: Path) -> Path:
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=3,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=4,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=64,
        out_channels=8,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipeline = PixArtSigmaPipeline(
        tokenizer=tokenizer("t5"),
        text_encoder=t5(),
        vae=autoencoder(latent_channels=4),
        transformer=drawn(transformer, 3),
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", num_train_timesteps=1000),
    )
    pipeline.save_pretrained(folder)
    return folder


def build_sana(folder: Path, *, sprint: bool = False) -> Path:
    vae = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=16,
        num_cross_attention_heads=4,
        cross_attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=32,
        sample_size=32,
        guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )
    parts = {
        "tokenizer": tokenizer("gemma"),
        "text_encoder": gemma2(),
        "vae": drawn(vae, 4),
        "transformer": drawn(transformer, 3),
    }
    if sprint:
        SanaSprintPipeline(**parts, scheduler=SCMScheduler()).save_pretrained(folder)
        return folder
    pipeline = SanaPipeline(
        **parts,
        scheduler=DPMSolverMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction", algorithm_type="dpmsolver++"
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


# How a checkpoint of each family of transformers is built.
FLOWS = {
    "sd3": build_sd3,
    "flux": build_flux,
    "chroma": build_chroma,
    "flux2-dev": build_flux2_dev,
    "flux2-klein": lambda folder: build_klein(folder, distilled=False),
    "z-image": build_z_image,
    "lumina2": build_lumina_2,
    "qwen-image": build_qwen_image,
    "pixart-sigma": build_pixart,
    "sana": build_sana,
    "sana-sprint": lambda folder: build_sana(folder, sprint=True),
}
