"""Captions of scenes in several wordings; size, background and sometimes more may be omitted."""

from __future__ import annotations

import random
import string

from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

__all__ = ["WORDS", "caption"]

SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
SHADE_WORDS = {"gray": ("gray", "grey")}
OPENINGS = ("a picture of", "a photo of", "a drawing of", "an image of")
GROUNDS = ("on {}", "on a {} background", ", {} background", "on {} background", "against a {} background")
RELATIONS = {
    ("across", True): ("to the left of", "left of", "on the left of"),
    ("across", False): ("to the right of", "right of", "on the right of"),
    ("down", True): ("above", "over", "on top of"),
    ("down", False): ("below", "under", "beneath"),
}
STRANGERS = 0.06  # share of captions with an invented word, so that the model learns to ignore unknown words

WORDS = sorted(
    {
        word
        for phrase in (
            *SHAPES,
            *COLOURS,
            *BACKGROUNDS,
            *(word for words in (*SIZE_WORDS.values(), *SHADE_WORDS.values()) for word in words),
            *OPENINGS,
            *(ground.format("") for ground in GROUNDS),
            *(words for several in RELATIONS.values() for words in several),
            "a an the and shape",
        )
        for word in phrase.split()
    }
)


def caption(scene: Scene, rng: random.Random, thorough: bool = False) -> str:
    """One wording of the scene; a `thorough` one omits at most sizes."""
    article = "" if rng.random() < 0.15 else "a"
    if not scene.axis:
        text = thing_phrase(scene.things[0], article, rng, 0.0 if thorough else 0.07)
    else:
        forward = rng.random() < 0.5
        phrases = [
            thing_phrase(thing, article, rng, 0.0) for thing in (scene.things if forward else scene.things[::-1])
        ]
        vague = not thorough and rng.random() < 0.06
        text = f" {'and' if vague else rng.choice(RELATIONS[scene.axis, forward])} ".join(phrases)
    if rng.random() < 0.15:
        text = f"{rng.choice(OPENINGS)} {text}"
    if thorough or rng.random() < 0.75:
        shade = rng.choice(SHADE_WORDS.get(scene.background, (scene.background,)))
        text = f"{text} {rng.choice(GROUNDS).format(shade)}".replace(" ,", ",")
    return text if thorough else add_stranger(text, rng)


def thing_phrase(thing: Thing, article: str, rng: random.Random, partly: float) -> str:
    """A phrase such as "a small red circle"; with probability `partly` only its shape or only its colour."""
    size = rng.choice(SIZE_WORDS[thing.size]) if rng.random() < 0.5 else ""
    words = [size, thing.colour, thing.shape]
    draw = rng.random()
    if draw < partly:
        words = [size, "", thing.shape]
    elif draw < 2 * partly:
        words = [size, thing.colour, "shape"] if rng.random() < 0.5 else ["", "", thing.colour]
    words = [word for word in words if word]
    if article and words != [thing.colour]:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    return " ".join(words)


def add_stranger(text: str, rng: random.Random) -> str:
    if rng.random() >= STRANGERS:
        return text
    words = text.split()
    words.insert(rng.randrange(len(words) + 1), "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8))))
    return " ".join(words)
