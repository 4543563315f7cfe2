"""Weights and long prompts: the encodings of compel, of AUTOMATIC1111's published algorithm, and of diffusers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import checkpoints
import numpy as np
import pytest
import torch
from compel import CompelForSD, CompelForSDXL, SplitLongTextMode
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_checkpoints import build_loras
from weighted_prompts import A1111, COMPEL

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.syntax.emphasis import parse, unsupported

PIPELINES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
OPTIONS = {"sd": {"safety_checker": None}, "sdxl": {"add_watermarker": False}}
NEGATIVE = "(ugly:1.3), blurry"
LONG = "a red cat on a mat and two blue squares and ein Würfel " * 4


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def model(request, tmp_path_factory):
    """A checkpoint whose last norm has weights: without, hidden states have a mean of 0, by which AUTOMATIC1111
    divides. Gives its kind, its folder and diffusers' pipeline.
    """
    folder = tmp_path_factory.mktemp("models") / request.param
    {"sd": checkpoints.build_sd, "sdxl": checkpoints.build_sdxl}[request.param](folder)
    pipeline = PIPELINES[request.param].from_pretrained(folder, **OPTIONS[request.param])
    generator = torch.Generator().manual_seed(3)
    encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if request.param == "sdxl" else [])]
    for encoder in encoders:
        text_model = getattr(encoder, "text_model", encoder)
        text_model.final_layer_norm.bias.data = torch.rand(32, generator=generator)
        # diffusers looks for SD's last norm where this transformers has it no more.
        object.__setattr__(encoder, "text_model", text_model)
    pipeline.save_pretrained(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, steps_offset=1)
    pipeline.set_progress_bar_config(disable=True)
    return request.param, folder, pipeline


def made(folder, requests: Sequence[Request]) -> list[GeneratedImage]:
    """What the engine makes; in another order and other company, the same bytes."""
    engine = Engine(folder, lanes=8)
    images = sorted(engine.generate(requests), key=lambda image: image.index)
    other = sorted(engine.generate(requests[5::-1]), key=lambda image: -image.index)
    assert [image.error for image in images] == [None] * len(images)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(images, other, strict=False))
    return images


def assert_same(pipeline, images: list[GeneratedImage], arguments: Sequence[dict]) -> None:
    for image, own in zip(images, arguments, strict=True):
        expected = pipeline(
            num_inference_steps=2,
            guidance_scale=image.request.guidance_scale,
            generator=torch.Generator().manual_seed(image.request.seed),
            output_type="np",
            **own,
        ).images[0]
        off = np.abs((expected * 255).round() - image.pixels.astype(int)).max()
        assert off <= 2, f"{image.request.prompt!r}: off by {off}"


def rows(prompts: Sequence[str], negative: str, **extra) -> list[Request]:
    return [
        Request(prompt, negative, seed=i, sampler="ddim", steps=2, guidance_scale=3.0, extra=extra)
        for i, prompt in enumerate(prompts)
        if prompt
    ]


def test_compels_syntax_is_encoded_as_compel_does(model):
    kind, folder, pipeline = model
    compel = CompelForSD(pipeline) if kind == "sd" else CompelForSDXL(pipeline)
    # With two encoders compel fails over .and() with weights.
    prompts = [prompt for prompt in COMPEL if kind == "sd" or ".and(0.5" not in prompt]
    requests = rows(prompts, "ugly++, (blurry)0.3", prompt_syntax="compel")
    images = made(folder, requests)
    arguments = []
    for request in requests:
        made_of = compel(request.prompt, negative_prompt=request.negative_prompt)
        own = {"prompt_embeds": made_of.embeds, "negative_prompt_embeds": made_of.negative_embeds}
        if kind == "sdxl":
            own["pooled_prompt_embeds"] = made_of.pooled_embeds
            own["negative_pooled_prompt_embeds"] = made_of.negative_pooled_embeds
        arguments.append(own)
    assert_same(pipeline, images, arguments)
    assert not any(image.prompt_truncated for image in images)
    assert images[0].prompt_tokens == len(pipeline.tokenizer("a red cat playing with a ball").input_ids)


def published(pipeline, kind: str, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """AUTOMATIC1111's algorithm, written down once more from its description: chunks (1, n · context, dim), pooled."""
    states, pooled = [], None
    names = ["", "_2"] if kind == "sdxl" else [""]
    for name in names:
        tokenizer, encoder = getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}")
        room, comma = tokenizer.model_max_length - 2, tokenizer.get_vocab()[",</w>"]
        stream: list[tuple[int, float] | None] = []
        for text, weight in weighed(prompt):
            ids = [] if text is None else tokenizer(text, add_special_tokens=False).input_ids
            stream += [None] if text is None else [(token, weight) for token in ids]
        chunks: list[list[tuple[int, float]]] = []
        for has_break, group in itertools.groupby(stream, key=lambda token: token is None):
            left = list(group)
            if has_break:
                # Between two breaks, and before the first one, stands an empty chunk.
                chunks += [[]] * (len(left) - bool(chunks))
                continue
            while left:
                cut = min(room, len(left))
                commas = [i for i in range(cut) if left[i][0] == comma]
                if len(left) > room and left[room][0] != comma and commas and room - commas[-1] <= 20:
                    cut = commas[-1] + 1
                chunks.append(left[:cut])
                left = left[cut:]
        parts = []
        for chunk in chunks or [[]]:
            ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (room + 2 - len(ids))
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
            z = output.hidden_states[-2] if kind == "sdxl" else output.last_hidden_state
            pooled = output[0] if pooled is None and name == "_2" else pooled
            weights = torch.ones(room + 2)
            weights[1 : len(chunk) + 1] = torch.tensor([weight for _, weight in chunk])
            emphasised = z * weights[None, :, None]
            parts.append(emphasised * (z.mean() / emphasised.mean()))
        states.append(torch.cat(parts, dim=1))
    return torch.cat(states, dim=-1), pooled


def weighed(prompt: str) -> list[tuple[str | None, float]]:
    """Texts and weights, None for BREAK: the syntax read a second time, character by character."""
    letters: list[list] = []  # one character each, and its weight; None for BREAK
    opened: list[tuple[str, int]] = []

    def close(kind: str, factor: float) -> bool:
        places = [place for place, (sign, _) in enumerate(opened) if sign == kind]
        if places:
            for letter in letters[opened.pop(places[-1])[1] :]:
                letter[1] *= factor
        return bool(places)

    i = 0
    while i < len(prompt):
        rest = prompt[i:]
        number = re.match(r":\s*([\d.]+)\s*\)", rest)
        gap = re.match(r"\s*\bBREAK\b\s*", rest)
        if rest[0] == "\\":
            letters.append([rest[1], 1.0])
            i += 2
        elif rest[0] in "([":
            opened.append((rest[0], len(letters)))
            i += 1
        elif number and close("(", float(number[1])):
            i += number.end()
        elif gap:
            letters.append([None, -1.0])
            i += gap.end()
        else:
            if not (rest[0] == ")" and close("(", 1.1)) and not (rest[0] == "]" and close("[", 1 / 1.1)):
                letters.append([rest[0], 1.0])
            i += 1
    while opened:
        close(opened[-1][0], 1.1 if opened[-1][0] == "(" else 1 / 1.1)
    groups = itertools.groupby(letters, key=lambda letter: (letter[0] is None, letter[1]))
    return [(None if is_break else "".join(c for c, _ in group), weight) for (is_break, weight), group in groups]


def test_automatic1111s_syntax_is_encoded_as_it_does(model):
    kind, folder, pipeline = model
    # With two encoders every other prompt shows it.
    requests = rows(A1111 if kind == "sd" else A1111[::2], NEGATIVE, prompt_syntax="a1111")
    images = made(folder, requests)
    empty, _ = published(pipeline, kind, "")
    arguments = []
    for request in requests:
        texts = [published(pipeline, kind, text) for text in (request.prompt, NEGATIVE)]
        length = max(states.shape[1] for states, _ in texts)
        states = [torch.cat([z, *[empty] * ((length - z.shape[1]) // empty.shape[1])], dim=1) for z, _ in texts]
        own = {"prompt_embeds": states[0], "negative_prompt_embeds": states[1]}
        if kind == "sdxl":
            own |= {"pooled_prompt_embeds": texts[0][1], "negative_pooled_prompt_embeds": texts[1][1]}
        arguments.append(own)
    assert_same(pipeline, images, arguments)


def test_weights_and_long_prompts_with_loras(model, tmp_path):
    """The chunks are encoded by the text encoders with the row's LoRAs, beside rows without."""
    kind, folder, plain = model
    files = build_loras(tmp_path / "loras", folder)
    weights = {"texts": 0.8, "attention": 0.6}
    loras = ";".join(f"{files[name]}:{weight}" for name, weight in weights.items())
    prompts = ["a (red:1.4) cat BREAK [blue] squares", LONG]
    requests = [
        Request(
            prompt,
            NEGATIVE,
            seed=i,
            sampler="ddim",
            steps=2,
            guidance_scale=3.0,
            extra={"prompt_syntax": "a1111"} | ({"lora": loras} if i % 2 else {}),
        )
        for i, prompt in enumerate(prompt for prompt in prompts for _ in range(2))
    ]
    images = made(folder, requests)
    adapted = PIPELINES[kind].from_pretrained(folder, **OPTIONS[kind])
    adapted.scheduler = plain.scheduler
    adapted.set_progress_bar_config(disable=True)
    for name in weights:
        adapted.load_lora_weights(str(files[name]), adapter_name=name)
    adapted.set_adapters(list(weights), list(weights.values()))
    for image in images:
        pipeline = adapted if "lora" in image.request.extra else plain
        texts = [published(pipeline, kind, text) for text in (image.request.prompt, NEGATIVE)]
        empty, _ = published(pipeline, kind, "")
        length = max(states.shape[1] for states, _ in texts)
        states = [torch.cat([z, *[empty] * ((length - z.shape[1]) // empty.shape[1])], dim=1) for z, _ in texts]
        own = {"prompt_embeds": states[0], "negative_prompt_embeds": states[1]}
        if kind == "sdxl":
            own |= {"pooled_prompt_embeds": texts[0][1], "negative_pooled_prompt_embeds": texts[1][1]}
        assert_same(pipeline, [image], [own])
    assert np.abs(images[1].pixels.astype(int) - images[0].pixels).mean() > 3  # the LoRAs do something


def test_long_plain_prompts_and_clip_skip(model):
    kind, folder, pipeline = model
    compel = CompelForSD(pipeline) if kind == "sd" else CompelForSDXL(pipeline)
    for part in ("compel", "compel_1", "compel_2"):
        if hasattr(compel, part):
            getattr(compel, part).conditioning_provider.split_long_text_mode = SplitLongTextMode.BRUTAL
    common = {"sampler": "ddim", "steps": 2, "guidance_scale": 3.0}
    long = Request(LONG, "ugly", seed=1, extra={"long_prompts": "chunk"}, **common)
    both = [
        Request("a red cat", "ugly", seed=2, **common),
        Request("a red cat", "ugly", seed=2, extra={"long_prompts": "chunk"}, **common),
        Request(LONG, "ugly", seed=3, **common),
        Request(LONG, "ugly", seed=3, extra={"prompt_syntax": "a1111", "long_prompts": "truncate"}, **common),
    ]
    skipping = [Request("a red cat", "ugly", seed=4, extra={"clip_skip": skip}, **common) for skip in (1, 2)]
    images = made(folder, [long, *both, *skipping])
    own = compel(LONG, negative_prompt="ugly")
    arguments = {"prompt_embeds": own.embeds, "negative_prompt_embeds": own.negative_embeds}
    if kind == "sdxl":
        arguments |= {"pooled_prompt_embeds": own.pooled_embeds}
        arguments |= {"negative_pooled_prompt_embeds": own.negative_pooled_embeds}
    skips = [{"prompt": "a red cat", "negative_prompt": "ugly", "clip_skip": skip} for skip in (1, 2)]
    assert_same(pipeline, [images[0], *images[5:]], [arguments, *skips])
    assert np.array_equal(images[1].pixels, images[2].pixels) and np.array_equal(images[3].pixels, images[4].pixels)
    told = [(image.prompt_truncated, image.prompt_tokens) for image in (images[0], *images[2:5])]
    assert told == [(False, told[0][1]), (False, 5), (True, told[0][1]), (True, told[0][1])]


def test_what_cannot_be_encoded_fails_alone(model):
    _, folder, _ = model
    a1111, compel = {"prompt_syntax": "a1111"}, {"prompt_syntax": "compel"}
    wrong = [
        ("a cat", {"clip_skip": 9}, "clip_skip 9 is more than"),
        ("a [cat:dog:0.5]", a1111, "prompt: [from:to:when]"),
        ("a cat AND a dog", a1111, "AND combines prompts"),
        ("a cat <lora:dog:0.5>", a1111, "<lora:dog:0.5> names a network"),
        ("a (cat:1.2.3)", a1111, "'1.2.3' is not a number"),
        ("a cat.swap(dog)", compel, "prompt: .swap() needs"),
        ('("a cat", "a dog").blend(1)', compel, "compel can't read the prompt"),
        ("a cat withLora(dog)", compel, "prompt: withLora() names"),
    ]
    requests = [Request(prompt, steps=2, extra=extra) for prompt, extra, _ in wrong]
    images = {image.index: image for image in Engine(folder, lanes=4).generate([*requests, Request("a cat", steps=2)])}
    assert images.pop(len(wrong)).error is None
    for i, image in images.items():
        assert wrong[i][2] in image.error


@pytest.mark.parametrize("model", ["sdxl"], indirect=True, scope="module")
def test_the_second_prompts_and_sizes_of_sdxl(model):
    _, folder, pipeline = model
    common = {"sampler": "ddim", "steps": 2, "guidance_scale": 3.0}
    sizes = {"original_size": "96x48", "target_size": "(64, 32)", "crops_coords_top_left": "8x4"}
    others = {"negative_original_size": "16x24", "negative_target_size": "32,40"}
    settings = [
        {"prompt_2": "a blue square"},
        {"negative_prompt_2": "blurry"},
        {"prompt_2": "a blue square", "negative_prompt_2": "blurry", **sizes},
        {**sizes, **others},
        {**others, "negative_crops_coords_top_left": "3x5"},
    ]
    negatives = ["ugly", "", "ugly", "ugly", ""]
    requests = [
        Request("a red cat", negative, seed=i, extra=own, **common)
        for i, (negative, own) in enumerate(zip(negatives, settings, strict=True))
    ]
    tuples = [
        {
            name: tuple(map(int, re.findall(r"\d+", text))) if text[-1] in ")0123456789" else text
            for name, text in own.items()
        }
        for own in settings
    ]
    arguments = [
        {"prompt": "a red cat", "negative_prompt": negative or ("" if "negative_prompt_2" in own else None), **own}
        for negative, own in zip(negatives, tuples, strict=True)
    ]
    assert_same(pipeline, made(folder, requests), arguments)
    wrong = [{"negative_original_size": "1x1"}, {"original_size": "large"}]
    images = Engine(folder, lanes=4).generate([Request("a cat", steps=2, extra=extra) for extra in wrong])
    assert [image.error.partition(" ")[0] for image in images] == ["negative_original_size", "original_size"]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_the_examples_of_the_original(prompt, pieces):
    assert parse(prompt) == pieces


@pytest.mark.parametrize(
    ("prompt", "is_made"),
    [
        ("[a:b:0.5]", False),
        ("[a::.5]", False),
        ("[(a:2):3]", False),
        ("x [a|b] y", False),
        ("[a:b]", True),
        (r"\[a|b\]", True),
        ("[a] (b:1.2) c:0.5", True),
        ("[unbalanced: 0.5", True),
        ("a AND b", False),
        ("BRAND", True),
    ],
)
def test_what_is_not_made_is_refused(prompt, is_made):
    assert (unsupported(prompt) is None) == is_made
