"""Any text has tokens; each word of a caption is one token."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.tiny.captions import WORDS, caption
from sdbatch.tiny.scenes import scenes
from training.tiny.judge import MODEL
from training.tiny.tokenizer import CONTEXT, new_tokenizer

TOKENIZER = new_tokenizer()


@pytest.mark.parametrize("word", WORDS)
def test_a_caption_word_is_one_token(word):
    assert len(TOKENIZER.tokenize(word)) == 1


def test_captions_fit_the_context():
    rng = random.Random(0)
    texts = [caption(scene, rng) for scene in rng.sample(scenes(2), 2_000)]
    assert max(map(len, TOKENIZER(texts).input_ids)) <= CONTEXT


@given(st.text(max_size=200))
def test_any_text_has_known_tokens(text):
    ids = TOKENIZER(text, padding="max_length", max_length=CONTEXT, truncation=True).input_ids
    assert len(ids) == CONTEXT
    assert ids[0] == TOKENIZER.bos_token_id and ids[-1] == TOKENIZER.eos_token_id
    assert all(0 <= token < len(TOKENIZER) for token in ids)


def test_text_is_told_apart_by_its_bytes():
    assert TOKENIZER("漢").input_ids != TOKENIZER("字").input_ids
    assert TOKENIZER("a BIG Red circle").input_ids == TOKENIZER("a big red  circle").input_ids


def test_the_shipped_tokenizer_is_this_one():
    shipped = type(TOKENIZER).from_pretrained(MODEL / "tokenizer")
    text = "a big red circle, unlike a ζέβρα 🦓"
    assert shipped(text).input_ids == TOKENIZER(text).input_ids
    assert shipped.model_max_length == CONTEXT
