"""What decides which kernel computes an attention."""

from __future__ import annotations

import pytest
import torch

__all__ = ["attention_calls"]


def attention_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], bool, bool]]:
    """A list to which every further attention adds its query's shape, and whether it has a mask and is causal."""
    attention, calls = torch.nn.functional.scaled_dot_product_attention, []

    def noting(query, key, value, attn_mask=None, *args, is_causal=False, **options):
        calls.append((tuple(query.shape), attn_mask is not None, is_causal))
        return attention(query, key, value, attn_mask, *args, is_causal=is_causal, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    return calls
