"""Published prompts with weights: from AUTOMATIC1111's wiki and its users, compel and diffusers."""

from __future__ import annotations

A1111 = (
    "a (word)",
    "a ((word)) and [another] one",
    "a (word:1.5), a (word:0.25)",
    r"a \(word\) in brackets",
    "(masterpiece:1.2), (best quality:1.2), highly detailed, anime style, 2d",
    "(worst quality:1.4), (low quality:1.4), deformed, western style",
    "realistic, ((masterpiece)), ((best quality)), (detailed), cinematic, dynamic lighting, soft shadow, smoke",
    "(low quality:1.3), (worst quality:1.3)",
    "(((solo))) food in the middle of the picture, close-up shot, ((masterpiece)), 8k, ultra-detailed",
    "(1girl:1.1), (solo), white hair, denim shorts, cyberpunk city at night, wet reflective street, 8k, HDR",
    "(masterpiece, finely detailed beautiful eyes: 1.2), ultra-detailed, illustration, blue hair black hair",
    "((nose blush)), (smile:1.1),(closed mouth), (collared shirt:1.1), bowtie, (short hair:1.2), floating hair",
    "(8k, RAW photo, best quality, masterpiece:1.2), (realistic, photo-realistic:1.37), close up:1.2",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
    "(low quality, worst quality:1.4), blurry, noise, grain, distorted.",
    "((detailed)), Spectacular, ((Captivating)), (8K), Blimp, Zeppelin, [Chalk art], Straight light",
    "((detailed)), Meticulous, Striking, Beastmaster)), (Bond, Animals",
    "a red cat BREAK a blue dog on grass",
    "(portrait of a cat) BREAK, [[oil painting]], (brush strokes:1.1) BREAK (unfinished",
    "the word 'START' written in (chalk) on a sidewalk: a:b ] and ) alone",
    "A map of the United States made out of sushi. It is on a table next to a (glass of red wine:1.21).",
    "(a:0), (b:2",
    "",
)
COMPEL = (
    "a red cat++ playing with a ball----",
    "a grey cat++ playing with a (ball)0.5",
    '("a red cat playing with a ball", "jungle").blend(0.7, 0.8)',
    '("a cat playing in the forest", "an impressionist oil painting").and()',
    '("a cat in the forest", "a painting").and(0.5, 1.2)',
    "A tall (man)1.25 picking apricots",
    "A tall man (picking (apricots)1.3)1.1, in the style of a photograph---",
    '"a woman in a garden"+ holding (flowers)-',
    "a (map of the United States)1.2 made out of sushi, on a table next to a glass of red wine. " * 2,
    "",
)
