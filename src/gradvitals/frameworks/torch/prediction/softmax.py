"""The algebra of softmax weights of Gaussian scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.sharpness import correction, passed_on, places
from gradvitals.frameworks.torch.prediction.transformed import applied, backwards
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.field import Field, Role

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.prediction.operation import Operation

#: Terms of exp(cov) = Σ covᵏ/k!, and the size of the first one that is left out.
_MOST_TERMS, _NEGLIGIBLE = 16, 1e-4
#: Score variances beyond this are cut: weights are then on one key anyway.
LARGEST = 6.0
#: Units whose exponentials' sum isn't certain: it departs by √((e^v − 1)/n), a tenth for scores of variance 1.
FEW_UNITS = 128
#: Rows of which less than this is left beside single keys see one key.
_ONE_KEY = 1e-6


def bias_by_batch(bias: Any, shape: tuple[int, ...], batch: int, rows: int, columns: int) -> Any:
    """A bias as (B, T, S), the mean over heads; zeros where there is none."""
    if bias is None:
        return np.zeros((1, rows, columns))
    full = np.broadcast_to(bias, (*bias.shape[:-2], rows, columns))
    if full.ndim == 2:
        return full[None]
    lead = full.shape[:-2]
    flat = full.reshape(-1, rows, columns)
    if lead[0] in (1, batch) and len(lead) > 1:
        return full.reshape(lead[0], -1, rows, columns)[:, 0]
    if len(flat) in (1, batch):
        return flat
    if shape[0] and len(flat) % shape[0] == 0 and len(lead) == 1:
        each = len(flat) // batch if len(flat) % batch == 0 else len(flat)
        return flat[::each][:batch]
    return flat[:batch] if len(flat) >= batch else flat[:1]


def repeated(kernel: Any, batch: int) -> Any:
    """One batch element that serves all."""
    if kernel.shape[0] == batch:
        return kernel
    return np.tile(kernel, (batch, 1, batch, 1))


def _on_diagonal(by_sample: Any) -> Any:
    """(B, T, T) as (B, B, T, T), zero between samples."""
    b = len(by_sample)
    full = np.zeros((b, b, *by_sample.shape[1:]))
    full[np.arange(b), np.arange(b)] = by_sample
    return full


def _by_row(function: Callable[[float, float], float], squares: Any, variance: Any) -> Any:
    """A function of the number of keys that a row sees, and the variance of their scores."""
    keys = 1 / np.maximum(squares.ravel(), 1e-12)
    _, first, which = np.unique(places(keys, variance.ravel()), return_index=True, return_inverse=True)
    known = np.array([function(keys[at], variance.ravel()[at]) for at in first])
    return known[which.reshape(-1)].reshape(squares.shape)


def _pairs(array: Any) -> Any:
    """(B, T, C, U) as (B, C, T, U), for products of matrices by pairs of samples."""
    return array.transpose(0, 2, 1, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Kernels by pairs of samples, (B, B, T, T), and the first-order weights (B, T, S)."""

    query: Any
    key: Any
    value: Any
    weights: Any
    factor: float
    terms: int
    total: Any
    extra: float
    chance: Any
    _known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Any, key: Any, value: Any, bias: Any, factor: float, extra: float, blur: float = 0.0) -> Parts:
        """Softmax weights for scores of covariance factor·query·key plus an independent part."""
        b, rows, _, _ = query.shape
        columns = key.shape[1]
        own_q = np.einsum("btbt->bt", query)
        own_k = np.einsum("bsbs->bs", key)
        variance = factor * own_q[:, :, None] * own_k[:, None, :]
        largest = float(variance.max(initial=0.0))
        if largest > LARGEST:
            factor *= LARGEST / largest
            variance = variance * (LARGEST / largest)
        logits = np.broadcast_to(bias, (b, rows, columns)) + (variance + extra) / 2
        top = logits.max(axis=2, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        weights = np.exp(logits - top)
        total = weights.sum(axis=2, keepdims=True)
        weights = np.where(total > 0, weights / np.where(total > 0, total, 1.0), 0.0)
        cov = min(largest, LARGEST)
        terms = 1
        while terms < _MOST_TERMS and cov**terms / math.factorial(terms) > _NEGLIGIBLE:
            terms += 1
        # Two tokens are alike by chance as well, in their keys and values together.
        own_v = np.einsum("bsbs->bs", value)
        chance = (
            blur
            * np.sqrt(np.maximum(own_k * own_v, 0.0))[:, :, None]
            * np.sqrt(np.maximum(own_k * own_v, 0.0))[:, None, :]
        )
        chance = chance * (1 - np.eye(columns))
        made = cls(_pairs(query), _pairs(key), _pairs(value), weights, factor, terms, None, extra, chance)
        return replace(made, total=made._series(np.ones_like(made.key)))

    def _series(self, inner: Any) -> Any:
        """Σᵢⱼ w_ti w_uj exp(cov) X_ij by its power series, for every t and u."""
        total: Any = 0.0
        key_power: Any = inner
        query_power: Any = 1.0
        for k in range(self.terms):
            total = total + self._between(key_power) * query_power * (self.factor**k / math.factorial(k))
            if k + 1 < self.terms:
                key_power = key_power * self.key
                query_power = query_power * self.query
        return total

    def _between(self, inner: Any) -> Any:
        """W X Wᵀ by pairs of samples."""
        return self.weights[:, None] @ inner @ self.weights[None].swapaxes(-1, -2)

    def _back(self, outer: Any) -> Any:
        """Wᵀ H W by pairs of samples."""
        return self.weights[:, None].swapaxes(-1, -2) @ outer @ self.weights[None]

    def mixed(self, value: Any) -> Any:
        """The kernel of the mixture, (B, T, B, T)."""
        made = np.array((self._series(_pairs(value)) / np.maximum(self.total, 1e-300)).transpose(0, 2, 1, 3))
        own, change = self._change()
        b, t = np.arange(made.shape[0])[:, None], np.arange(made.shape[1])[None, :]
        diagonal = np.einsum("bibi->bi", value)
        single = np.einsum("bti,bi->bt", own, diagonal)
        rest = np.maximum(made[b, t, b, t] - single, 0.0) / np.maximum(1 - own.sum(axis=2), _ONE_KEY)
        made[b, t, b, t] += np.einsum("bti,bi->bt", change, diagonal) - change.sum(axis=2) * rest
        return made

    def _change(self) -> tuple[Any, ...]:
        """E[a²] as the series has it, and what is wrong with that."""
        if "change" not in self._known:
            base, own = self.own_share(products_only=True), self.own_share()
            self._known["change"] = base, own + self.sharper(own) - base
        return tuple(self._known["change"])

    def own_share(self, *, products_only: bool = False) -> Any:
        """E[a²] of every weight to first order, (B, T, S); of products alone, as the series has it."""
        extra = 0.0 if products_only else self.extra
        b = np.arange(len(self.weights))
        own_q = np.einsum("btt->bt", self.query[b, b])
        own_k = np.einsum("bss->bs", self.key[b, b])
        squares = self.weights**2 * np.exp(self.factor * own_q[:, :, None] * own_k[:, None, :])
        total = np.einsum("btt->bt", self.total[b, b]) + squares.sum(axis=2) * math.expm1(extra)
        return np.minimum(squares * math.exp(extra) / np.maximum(total[:, :, None], 1e-300), self.weights)

    def sharper(self, own: Any) -> Any:
        """What first order gets wrong in E[a²], (B, T, S): a softmax of strong scores is less sharp than that."""
        squares, variance = self._spread()
        ratio = _by_row(correction, squares, variance)
        return own * (ratio - 1)[:, :, None]

    def _spread(self) -> tuple[Any, ...]:
        """By row the sum of squared first-order weights, and the variance of scores over the keys that they see."""
        if "spread" in self._known:
            return tuple(self._known["spread"])
        b = np.arange(len(self.weights))
        own_q = np.einsum("btt->bt", self.query[b, b])
        key = self.key[b, b]
        squares = (self.weights**2).sum(axis=2)
        mean = np.einsum("bti,bii->bt", self.weights, key)
        between = np.einsum("bti,bij,btj->bt", self.weights, key, self.weights)
        between = (between - np.einsum("bti,bii->bt", self.weights**2, key)) / np.maximum(1 - squares, 1e-12)
        found = squares, np.where(squares < 1, self.factor * own_q * (mean - between) + self.extra, 0.0)
        self._known["spread"] = found
        return found

    def back_to_value(self, gradient: Any, kept: float) -> Any:
        """The gradient's kernel at the values, (B, S, B, S)."""
        g = _pairs(gradient) / np.maximum(self.total, 1e-300)
        total: Any = 0.0
        key_power: Any = 1.0
        query_power = g
        for k in range(self.terms):
            total = total + self._back(query_power) * key_power * (self.factor**k / math.factorial(k))
            if k + 1 < self.terms:
                key_power = key_power * self.key
                query_power = query_power * self.query
        made = np.array(total.transpose(0, 2, 1, 3))
        base, change = self._change()
        extra = np.einsum("bti,btbt->bi", (kept - 1) * (base + change) + change, gradient)
        b, s = np.arange(made.shape[0])[:, None], np.arange(made.shape[1])[None, :]
        made[b, s, b, s] += extra
        return made

    def back_to_bias(self, gradient: Any, *, summed: bool) -> Any:
        """The gradient's mean square at the scores, (T, S) of the sum over the batch or (B, T, S)."""
        root = np.sqrt(_by_row(passed_on, *self._spread()))
        gradient = gradient * np.multiply.outer(root, root)
        b = np.arange(len(self.weights))
        own = self.own_share()
        own = own + self.sharper(own)
        w, v = self.weights, self.value
        by_pair = np.einsum("btcu->bctu", gradient)
        total: Any = 0.0 if summed else []
        for i in b:
            for j in b if summed else (i,):
                g = np.diagonal(by_pair[i, j])[:, None]
                wv, vw = w[i] @ v[i, j], (v[i, j] @ w[j].T).T
                inner = np.diagonal(v[i, j])[None, :] - wv - vw + np.einsum("ts,ts->t", wv, w[j])[:, None]
                weight = own[i] if i == j else w[i] * w[j]
                made = np.maximum(g * weight * inner, 0.0) if i == j else g * weight * inner
                total = total + made if summed else [*total, made]
        return np.maximum(np.asarray(total), 0.0)

    def back_to_scores(self, gradient: Any, kept: float) -> tuple[Any, Any]:
        """The gradients' kernels at queries and keys: ∂s = a(∂a − Σ a∂a), ∂a = g·v, per unit scale."""
        root = np.sqrt(_by_row(passed_on, *self._spread()))
        gradient = gradient * np.multiply.outer(root, root)
        g = _pairs(gradient) / np.maximum(self.total, 1e-300)
        w, wt = self.weights[:, None], self.weights[None].swapaxes(-1, -2)
        v = self.value
        wv, vw = w @ v, v @ wt
        wvw = wv @ wt
        to_query: Any = 0.0
        to_key: Any = 0.0
        key_power: Any = np.ones_like(self.key)
        query_power: Any = np.ones_like(self.query)
        for k in range(self.terms):
            share = self.factor**k / math.factorial(k)
            key_next = key_power * self.key
            wk, kw = w @ key_next, key_next @ wt
            product = key_next * v
            if k == 0:
                product = product + _on_diagonal(self.chance)
            inner = w @ product @ wt - (wk * wv) @ wt - w @ (kw * vw) + wvw * (wk @ wt)
            to_query = to_query + share * query_power * g * inner
            h = g * query_power * self.query
            hw, wh = h @ self.weights[None], self.weights[:, None].swapaxes(-1, -2) @ h
            whw = wh @ self.weights[None]
            outer = (
                v * whw
                - self.weights[:, None].swapaxes(-1, -2) @ (wv * hw)
                - (vw * wh) @ self.weights[None]
                + self._back(h * wvw)
            )
            to_key = to_key + share * key_power * outer
            key_power, query_power = key_next, query_power * self.query
        to_query, to_key = np.array(to_query.transpose(0, 2, 1, 3)), np.array(to_key.transpose(0, 2, 1, 3))
        b = np.arange(len(w))
        own_g = np.einsum("btbt->bt", gradient)
        own_v = np.einsum("bss->bs", v[b, b])
        own_k = np.einsum("bss->bs", self.key[b, b])
        own_q = np.einsum("btt->bt", self.query[b, b])
        base, change = self._change()
        single = (kept - 1) * (base + change) + change
        i, t, s = b[:, None], np.arange(to_query.shape[1])[None], np.arange(to_key.shape[1])[None]
        to_query[i, t, i, t] += own_g * np.einsum("bti,bi->bt", single, own_v * own_k)
        to_key[i, s, i, s] += own_v * np.einsum("bti,bt->bi", single, own_g * own_q)
        return to_query, to_key


def log_total(field: Field, dim: int) -> Any:
    """E[log Σ exp x] over the units of a dimension, nearly certain for many of them, by place."""
    n = math.prod(axis.size for axis in field.layout[dim])
    return np.log(np.maximum(n * applied(field, torch.exp).mean, 1e-300))


def over_units(operation: Operation, x: Node, dim: int) -> None:
    """A softmax over units (router, classifier): exponentials over their sum, which many units make certain."""
    field = x.field
    n = math.prod(axis.size for axis in field.layout[dim])
    exponential = applied(field, torch.exp)
    total = n * exponential.mean
    by_place = 1 / np.maximum(total, 1e-300)
    pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
    flat = by_place.mean(axis=pixels) if pixels else by_place
    made = replace(
        exponential,
        mean=exponential.mean * by_place,
        second=np.minimum(exponential.second * by_place**2, 1.0 / n),
        kernel=exponential.kernel * np.multiply.outer(flat, flat),
    )

    def pullback(gradient: Field) -> Sequence[Field]:
        back = backwards(gradient, field, torch.exp)
        return [
            replace(
                back,
                second=back.second * by_place**2,
                kernel=back.kernel * np.multiply.outer(flat, flat),
            )
        ]

    operation.emit(made, [x], pullback)


__all__ = ["Parts", "bias_by_batch", "over_units", "repeated"]
