"""Text-to-image pipelines of diffusers that sdbatch does not run, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["UNSUPPORTED", "why_unsupported"]

_NOT_YET = "no family has been written for it yet"
_TWO_MODELS = "a second diffusion model makes its input, and sdbatch runs one"
_PIXELS = "it diffuses pixels in several stages, and sdbatch runs one model over latents"
_TOKENS = "it predicts tokens, not latents"
_SEARCHES = "between steps it changes the latents according to the attention maps"

UNSUPPORTED: Mapping[str, str] = {
    "AmusedPipeline": _TOKENS,
    "AuraFlowPipeline": _NOT_YET,
    "BriaFibo2Pipeline": _NOT_YET,
    "BriaFiboPipeline": _NOT_YET,
    "BriaPipeline": _NOT_YET,
    "CogView3PlusPipeline": _NOT_YET,
    "CogView4Pipeline": _NOT_YET,
    "DreamLitePipeline": _NOT_YET,
    "ErnieImagePipeline": _NOT_YET,
    "GlmImagePipeline": "a language model plans the picture token by token",
    "HiDreamImagePipeline": "its folder lacks a text encoder, Llama 3.1, which users must provide themselves",
    "HunyuanDiTPipeline": _NOT_YET,
    "HunyuanImagePipeline": _NOT_YET,
    "IFPipeline": _PIXELS,
    "Ideogram4Pipeline": "a second transformer computes its unconditional outputs",
    "Kandinsky3Pipeline": _NOT_YET,
    "Kandinsky5T2IPipeline": _NOT_YET,
    "KandinskyCombinedPipeline": _TWO_MODELS,
    "KandinskyPipeline": _TWO_MODELS,
    "KandinskyV22CombinedPipeline": _TWO_MODELS,
    "KandinskyV22Pipeline": _TWO_MODELS,
    "KolorsPipeline": "its text encoder, ChatGLM3, needs code that is not in transformers",
    "Krea2Pipeline": _NOT_YET,
    "LDMTextToImagePipeline": _NOT_YET,
    "LongCatImagePipeline": _NOT_YET,
    "LuminaPipeline": _NOT_YET,
    "NucleusMoEImagePipeline": _NOT_YET,
    "OmniGenPipeline": _NOT_YET,
    "OvisImagePipeline": _NOT_YET,
    "PRXPipeline": _NOT_YET,
    "PixArtAlphaPipeline": _NOT_YET,
    "QwenImage21Pipeline": _NOT_YET,
    "SanaPAGPipeline": _NOT_YET,
    "StableCascadeCombinedPipeline": _TWO_MODELS,
    "StableCascadeDecoderPipeline": _TWO_MODELS,
    "StableDiffusionAttendAndExcitePipeline": _SEARCHES,
    "StableUnCLIPPipeline": _TWO_MODELS,
    "UnCLIPPipeline": _TWO_MODELS,
    "VQDiffusionPipeline": _TOKENS,
    "WuerstchenCombinedPipeline": _TWO_MODELS,
    "WuerstchenDecoderPipeline": _TWO_MODELS,
}


def why_unsupported(pipeline: object) -> str:
    """The end of a message that rejects a pipeline: the reason in parentheses, or nothing if none is known."""
    return f" ({UNSUPPORTED[pipeline]})" if isinstance(pipeline, str) and pipeline in UNSUPPORTED else ""
