"""How attention spreads: entropy, largest score and sharpness of its softmax, from a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Attention
from gradvitals.frameworks.torch.layers import FLAT

#: Samples and queries that are looked at: entropies are means over rows, which settle with a few hundred of them.
_SAMPLES, _QUERIES = 4, 64
#: Scores at or below this are masked: Hugging Face's older masks add -10000, newer ones the least number of the dtype.
_MASKED = -9999.0


def of_scores(scores: torch.Tensor) -> Attention | None:
    """Of scores of shape (..., queries, keys), before the softmax over keys; None where no row has a choice."""
    with torch.no_grad():
        if scores.ndim < 2 or not scores.numel():
            return None
        rows = _thinned(scores.detach(), scores.ndim - 2, _QUERIES)
        rows = _thinned(rows, 0, _SAMPLES) if scores.ndim > 3 else rows
        rows = rows.double() if rows.dtype == torch.float64 else rows.float()
        allowed = rows > _MASKED
        keys = allowed.sum(-1)
        open_rows = keys > 1
        finite = torch.isfinite(rows.masked_fill(~allowed, 0.0)).all()
        if not bool(open_rows.any()) or not bool(finite):
            return None
        log_p = torch.log_softmax(rows.masked_fill(~allowed, -math.inf), dim=-1)
        p = log_p.exp()
        entropy = -(p * log_p.masked_fill(~allowed, 0.0)).sum(-1) / keys.clamp_min(2).to(p.dtype).log()
        largest = p.amax(-1)
        heads = _by_head(entropy, open_rows)
        return Attention(
            entropy=float(entropy[open_rows].double().mean()),
            lowest_entropy=float(heads.min()),
            largest_score=float(rows.masked_fill(~allowed, 0.0).abs().max()),
            sharp_share=float((4 * largest * (1 - largest) < FLAT)[open_rows].double().mean()),
        )


def of_dot_products(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Attention | None:
    """Of query (..., heads, L, E) and key (..., heads, S, E) as ``F.scaled_dot_product_attention`` takes them."""
    with torch.no_grad():
        if query.ndim < 3 or query.shape[-1] != key.shape[-1]:
            return None
        length, keys = query.shape[-2], key.shape[-2]
        chosen = _places(length, _QUERIES, query.device)
        few = query.detach()[..., chosen, :]
        if query.ndim > 3:
            few, key = few[:_SAMPLES], key[:_SAMPLES]
            mask = mask[:_SAMPLES] if mask is not None and mask.ndim == query.ndim and len(mask) > 1 else mask
            if key.shape[-3] != few.shape[-3]:  # grouped queries: several heads share a key
                key = key.repeat_interleave(few.shape[-3] // key.shape[-3], dim=-3)
        scores = few @ key.detach().transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            hidden = torch.ones(length, keys, dtype=torch.bool, device=query.device).triu(1)[chosen]
            scores = scores.masked_fill(hidden, -math.inf)
        if mask is not None:
            rows = mask[..., chosen, :] if mask.shape[-2] == length else mask
            scores = scores.masked_fill(~rows, -math.inf) if rows.dtype == torch.bool else scores + rows
        return of_scores(scores)


_NAMES = frozenset({"softmax", "scaled_dot_product_attention", "multi_head_attention_forward"})


def of_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Attention | None:
    """Of a call of softmax, ``scaled_dot_product_attention`` or ``multi_head_attention_forward``; None of others."""
    if name not in _NAMES:
        return None
    try:
        with torch.no_grad():
            if name == "softmax":
                return _of_softmax(args, kwargs)
            if name == "scaled_dot_product_attention":
                return _of_product(*args, **kwargs)
            if name == "multi_head_attention_forward":
                return _of_heads(args, kwargs)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
    ):  # an odd layout: there is the output, as of any other call
        return None
    return None


def _of_softmax(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Attention | None:
    scores = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    if not isinstance(dim, int) or not scores.is_floating_point() or scores.ndim < 2:
        return None
    return of_scores(scores.movedim(dim, -1))


def _of_product(
    query: torch.Tensor,
    key: torch.Tensor,
    _value: torch.Tensor | None = None,
    attn_mask: torch.Tensor | None = None,
    _dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Attention | None:
    return of_dot_products(query, key, attn_mask, is_causal=is_causal, scale=options.get("scale"))


#: Arguments of ``F.multi_head_attention_forward`` by position, as far as they are needed.
_HEADS = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias")


def _of_heads(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Attention | None:
    """Project query and key as ``nn.MultiheadAttention`` does, with sequences first: (L, N, E)."""
    given = {**dict(zip(_HEADS, args, strict=False)), **kwargs}
    query, key, heads = given["query"], given["key"], given["num_heads"]
    if query.ndim != 3:
        return None
    query, key = query[:, :_SAMPLES], key[:, :_SAMPLES]
    width = query.shape[-1]
    weights = given["in_proj_weight"]
    first, second = (
        (weights[:width], weights[width : 2 * width])
        if weights is not None
        else (
            given["q_proj_weight"],
            given["k_proj_weight"],
        )
    )
    bias = given["in_proj_bias"]
    q = nn.functional.linear(query, first, bias[:width] if bias is not None else None)
    k = nn.functional.linear(key, second, bias[width : 2 * width] if bias is not None else None)
    q, k = (x.reshape(*x.shape[:2], heads, -1).permute(1, 2, 0, 3) for x in (q, k))
    mask = _heads_mask(given.get("attn_mask"), given.get("key_padding_mask"), heads)
    return of_dot_products(q, k, mask, is_causal=mask is None and bool(given.get("is_causal")))


def _heads_mask(mask: torch.Tensor | None, padding: torch.Tensor | None, heads: int) -> torch.Tensor | None:
    """Both masks of ``nn.MultiheadAttention`` as one to be added; in its boolean ones True means masked."""
    parts = []
    if mask is not None:
        parts.append(_additive(mask.reshape(-1, heads, *mask.shape[1:])[:_SAMPLES] if mask.ndim == 3 else mask))
    if padding is not None:
        parts.append(_additive(padding[:_SAMPLES, None, None, :]))
    return sum(parts[1:], parts[0]) if parts else None


def _additive(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -math.inf)


def _thinned(tensor: torch.Tensor, axis: int, most: int) -> torch.Tensor:
    return tensor.index_select(axis, _places(tensor.shape[axis], most, tensor.device))


def _places(length: int, most: int, device: torch.device) -> torch.Tensor:
    """Evenly spaced places, the last among them: under a causal mask the first rows have little choice."""
    count = min(length, most)
    return (
        torch.linspace(0, length - 1, count, device=device).round().long()
        if count > 1
        else torch.tensor([length - 1], device=device)
    )


def _by_head(entropy: torch.Tensor, open_rows: torch.Tensor) -> torch.Tensor:
    """Mean entropy of each head: the axis before the queries."""
    if entropy.ndim < 2:
        return entropy[open_rows].mean()
    weights = open_rows.to(entropy.dtype)
    others = [axis for axis in range(entropy.ndim) if axis != entropy.ndim - 2]
    return (entropy * weights).sum(others) / weights.sum(others).clamp_min(1)
