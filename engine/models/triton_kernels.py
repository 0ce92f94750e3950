"""The Triton kernels of `fused_ops`. Importing this file needs the package triton; see `fused_ops.load_triton`.

A kernel's program works on whole rows: one token's width for `modulated` and `gated`, a few tokens of one head after the
other for `turned`, so that a rotary table is read once for all heads. Sums and products are float32; every `.to(dtype)`
stands where torch rounds.
"""

# Triton reads annotations as they are, so there is no `from __future__ import annotations` here.
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.errors import TritonError  # noqa: F401 - one of the failures that `fused_ops` expects

TOKENS = 16
"""Tokens a program of `turned` works on."""


@triton.jit
def _modulated_kernel(text, video, out, weight, bias, text_scale, text_shift, video_scale, video_shift,
                      text_batch, text_row, video_batch, video_row, scale_batch, text_tokens, tokens, width, eps,
                      AFFINE: tl.constexpr, BLOCK: tl.constexpr):
    row, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    is_text = row < text_tokens
    source = text + batch * text_batch + row.to(tl.int64) * text_row
    other = video + batch * video_batch + (row - text_tokens).to(tl.int64) * video_row
    x = tl.load(source + column, mask=inside & is_text, other=0.0).to(tl.float32)
    x += tl.load(other + column, mask=inside & (row >= text_tokens), other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / width
    centred = tl.where(inside, x - mean, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    if AFFINE:
        y = y * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        y += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    at = batch * scale_batch + column
    scale = tl.load(text_scale + at, mask=inside & is_text, other=0.0).to(tl.float32)
    scale += tl.load(video_scale + at, mask=inside & (row >= text_tokens), other=0.0).to(tl.float32)
    shift = tl.load(text_shift + at, mask=inside & is_text, other=0.0).to(tl.float32)
    shift += tl.load(video_shift + at, mask=inside & (row >= text_tokens), other=0.0).to(tl.float32)
    y = (y.to(dtype).to(tl.float32) * scale).to(dtype).to(tl.float32) + shift
    tl.store(out + (batch * tokens + row) * width + column, y.to(dtype), mask=inside)


@triton.jit
def _gated_kernel(text, video, change, out, text_gate, video_gate, text_batch, text_row, video_batch, video_row,
                  change_batch, change_row, gate_batch, text_tokens, tokens, width, BLOCK: tl.constexpr):
    row, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    in_text, in_video = inside & (row < text_tokens), inside & (row >= text_tokens)
    x = tl.load(text + batch * text_batch + row.to(tl.int64) * text_row + column, mask=in_text, other=0.0).to(tl.float32)
    other = video + batch * video_batch + (row - text_tokens).to(tl.int64) * video_row
    x += tl.load(other + column, mask=in_video, other=0.0).to(tl.float32)
    at = batch * gate_batch + column
    gate = tl.load(text_gate + at, mask=in_text, other=0.0).to(tl.float32)
    gate += tl.load(video_gate + at, mask=in_video, other=0.0).to(tl.float32)
    by = tl.load(change + batch * change_batch + row.to(tl.int64) * change_row + column, mask=inside, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    y = x + (gate * by).to(dtype).to(tl.float32)
    tl.store(out + (batch * tokens + row) * width + column, y.to(dtype), mask=inside)


@triton.jit
def _normed_and_turned(x, weight, bias, cosine, sine, eps, dtype: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
                       NORM: tl.constexpr, TURN: tl.constexpr):
    if NORM:
        mean = tl.sum(x, axis=1) / WIDTH
        centred = x - mean[:, None]
        by = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
        x = (centred * by[:, None] * weight[None, :] + bias[None, :]).to(dtype).to(tl.float32)
    if TURN:
        first, second = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
        x = tl.reshape(tl.join(first * cosine - second * sine, first * sine + second * cosine), (ROWS, WIDTH))
    return x


@triton.jit
def _turned_kernel(query, key, weight_q, bias_q, weight_k, bias_k, table, batch_step, row_step, head_step, text_tokens, tokens, eps,
                   HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    batch = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = (row < tokens)[:, None]
    dtype = query.dtype.element_ty
    cosine = tl.full((ROWS, WIDTH // 2), 1.0, tl.float32)
    sine = tl.zeros((ROWS, WIDTH // 2), tl.float32)
    if TURN:
        # The table holds cosine and sine beside each other; text tokens are turned by nothing: 1 and 0.
        pair = table + (row - text_tokens)[:, None] * WIDTH + 2 * tl.arange(0, WIDTH // 2)[None, :]
        turns = ((row >= text_tokens) & (row < tokens))[:, None]
        cosine = tl.load(pair, mask=turns, other=1.0)
        sine = tl.load(pair + 1, mask=turns, other=0.0)
    wq = tl.load(weight_q + column).to(tl.float32) if NORM else tl.zeros((WIDTH,), tl.float32)
    bq = tl.load(bias_q + column).to(tl.float32) if NORM else tl.zeros((WIDTH,), tl.float32)
    wk = tl.load(weight_k + column).to(tl.float32) if NORM else tl.zeros((WIDTH,), tl.float32)
    bk = tl.load(bias_k + column).to(tl.float32) if NORM else tl.zeros((WIDTH,), tl.float32)
    place = batch * batch_step + row.to(tl.int64)[:, None] * row_step + column[None, :]
    for head in range(HEADS):
        at = place + head * head_step
        x = tl.load(query + at, mask=inside, other=0.0).to(tl.float32)
        x = _normed_and_turned(x, wq, bq, cosine, sine, eps, dtype, WIDTH, ROWS, NORM, TURN)
        tl.store(query + at, x.to(dtype), mask=inside)
        x = tl.load(key + at, mask=inside, other=0.0).to(tl.float32)
        x = _normed_and_turned(x, wk, bk, cosine, sine, eps, dtype, WIDTH, ROWS, NORM, TURN)
        tl.store(key + at, x.to(dtype), mask=inside)


def modulated(text: Tensor, video: Tensor, norm: nn.LayerNorm, text_scale: tuple[Tensor, Tensor],
              video_scale: tuple[Tensor, Tensor]) -> Tensor:
    """See `fused_ops.Ops.modulated`."""
    batch, length, width = text.shape
    tokens = length + video.shape[1]
    out = torch.empty(batch, tokens, width, dtype=video.dtype, device=video.device)
    scales = [part if part.stride(1) == 1 else part.contiguous() for part in (*text_scale, *video_scale)]
    if len({part.stride(0) for part in scales}) > 1:  # parts of one product have one stride
        scales = [part.contiguous() for part in scales]
    text, video = _rows(text), _rows(video)
    block = triton.next_power_of_2(width)
    affine = norm.weight is not None
    with _on(video):
        _modulated_kernel[(tokens, batch)](
            text, video, out, norm.weight if affine else out, norm.bias if affine else out, *scales, text.stride(0), text.stride(1),
            video.stride(0), video.stride(1), scales[0].stride(0), length, tokens, width, norm.eps, AFFINE=affine, BLOCK=block,
            num_warps=_warps(block))
    return out


def gated(text: Tensor, video: Tensor, change: Tensor, text_gate: Tensor, video_gate: Tensor) -> tuple[Tensor, Tensor]:
    """See `fused_ops.Ops.gated`."""
    batch, length, width = text.shape
    tokens = length + video.shape[1]
    out = torch.empty(batch, tokens, width, dtype=video.dtype, device=video.device)
    gates = [gate if gate.stride(1) == 1 else gate.contiguous() for gate in (text_gate, video_gate)]
    if gates[0].stride(0) != gates[1].stride(0):
        gates = [gate.contiguous() for gate in gates]
    text, video, change = _rows(text), _rows(video), _rows(change)
    block = triton.next_power_of_2(width)
    with _on(video):
        _gated_kernel[(tokens, batch)](
            text, video, change, out, *gates, text.stride(0), text.stride(1), video.stride(0), video.stride(1), change.stride(0),
            change.stride(1), gates[0].stride(0), length, tokens, width, BLOCK=block, num_warps=_warps(block))
    return out[:, :length], out[:, length:]


def turned(query: Tensor, key: Tensor, norm_q: Any, norm_k: Any, text: int, rotary: Tensor | None) -> None:
    """See `fused_ops.Ops.turned`. Queries and keys must be laid out alike, heads' channels side by side."""
    if query.stride() != key.stride() or query.stride(3) != 1:
        raise ValueError(f"queries and keys lie differently in memory ({query.stride()} and {key.stride()})")
    batch, tokens, heads, width = query.shape
    table = query if rotary is None else torch.view_as_real(rotary).contiguous()
    weights = (norm_q.weight, norm_q.bias, norm_k.weight, norm_k.bias) if norm_q is not None else (query,) * 4
    if norm_q is None and rotary is None:
        return
    with _on(query):
        _turned_kernel[(triton.cdiv(tokens, TOKENS), batch)](
            query, key, *weights, table, query.stride(0), query.stride(1), query.stride(2), text, tokens,
            norm_q.eps if norm_q is not None else 0.0, HEADS=heads, WIDTH=width, ROWS=TOKENS, NORM=norm_q is not None,
            TURN=rotary is not None, num_warps=4)


def _on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, wherever the numbers are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _rows(tokens: Tensor) -> Tensor:
    """The same with the channels of a token side by side."""
    return tokens if tokens.stride(2) == 1 else tokens.contiguous()


def _warps(block: int) -> int:
    return min(max(block // 512, 1), 8)
