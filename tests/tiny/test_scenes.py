"""Scenes: their pictures, their captions, and the ones that training never sees."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from sdbatch.tiny.captions import caption
from sdbatch.tiny.scenes import PIXELS, draw, held_out, scenes
from training.tiny.training import training_scenes


def combination(scene):
    return tuple(thing.kind for thing in scene.things), scene.axis, scene.background


@pytest.mark.parametrize("count, total, kept_back", [(1, 192, 22), (2, 17_664, 1_788)])
def test_a_tenth_is_held_out(count, total, kept_back):
    everything = scenes(count)
    assert len(everything) == len(set(everything)) == total
    assert sum(map(held_out, everything)) == kept_back


def test_the_split_never_moves():
    """A model's scores mean nothing any more on another split: it changes only with the weights."""
    kept_back = [repr(scene) for count in (1, 2) for scene in scenes(count) if held_out(scene)]
    digest = hashlib.sha256("\n".join(kept_back).encode()).hexdigest()
    assert digest == "6bdd15fbdf6906f8085ebaead3f29e990ffccfdb0ab3ce9e941ca954bf44d051"


@pytest.mark.parametrize("count", [1, 2])
def test_training_sees_no_held_out_combination_in_any_size(count):
    trained = {combination(scene) for scene in training_scenes(count)}
    kept_back = {combination(scene) for scene in scenes(count) if held_out(scene)}
    assert trained and kept_back and not trained & kept_back


def test_pictures_are_flat_but_for_the_edges():
    rng = random.Random(3)
    pictures = draw(rng.choices(scenes(1), k=32) + rng.choices(scenes(2), k=32), rng)
    assert pictures.shape == (64, 3, PIXELS, PIXELS) and pictures.dtype == np.float32
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert max(len(np.unique(picture.reshape(3, -1), axis=1).T) for picture in pictures) < 400


def test_drawing_is_a_function_of_the_random_state():
    batch = scenes(2)[::999]
    assert np.array_equal(draw(batch, random.Random(5)), draw(batch, random.Random(5)))
    assert not np.array_equal(draw(batch, random.Random(5)), draw(batch, random.Random(6)))


@pytest.mark.parametrize("count", [1, 2])
def test_a_thorough_caption_says_everything(count):
    rng = random.Random(1)
    for scene in rng.sample(scenes(count), 100):
        words = caption(scene, rng, thorough=True).replace(",", " ").replace("grey", "gray").split()
        assert scene.background in words
        assert all(thing.colour in words and thing.shape in words for thing in scene.things)


def test_captions_put_the_things_where_they_are():
    rng = random.Random(2)
    for scene in rng.sample(scenes(2), 300):
        text = caption(scene, rng, thorough=True)
        first, second = (text.find(f"{thing.colour} {thing.shape}") for thing in scene.things)
        forward = {"across": "left", "down": "above"}, {"across": "right", "down": "below"}
        for backward, words in enumerate(forward):
            if words[scene.axis] in text.split():
                assert (first > second) == bool(backward), text
