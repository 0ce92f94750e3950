"""CogVideoX's joint attention: any kernel, one product for queries, keys and values, and a rotary embedding in one pass.

    JointAttention      takes the place of diffusers' `CogVideoXAttnProcessor2_0`, which calls one kernel whatever backend
                        diffusers is told to use
    speed_up            puts it in where it gives the very same bits on this machine
    install             puts it in with another kernel, after a trial

Stock code turns a pair (x, y) by building (-y, x), two products and a sum, each over a full-size float copy. The complex
product (x + iy)(cos + i sin) makes the same two products and the same sum per number, in one pass.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from engine.errors import InvalidRequest
from engine.models.fused_ops import Ops
from engine.models.fused_qkv import pack, plain, project, unpack
from engine.models.kernels import Attend, is_lossy, kernel, native, trial

log = logging.getLogger(__name__)
Rotary = tuple[Tensor, Tensor]
TRIAL_TOKENS = 97
"""Video tokens of a trial where no clip's tables say how many."""


class JointAttention:
    """Attention of text and video tokens together by `attend`. Holds no weights, so all blocks share one."""

    def __init__(self, attend: Attend = native, name: str = "native", ops: Ops | None = None) -> None:
        """`ops`: norms and rotation of queries and keys in one pass, for complex tables."""
        self.attend, self.name, self.ops = attend, name, ops

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None,
                 image_rotary_emb: Tensor | Rotary | None = None) -> tuple[Tensor, Tensor]:
        """`image_rotary_emb`: diffusers' tables, or `as_complex` of them, or None. Only the native kernel takes a mask."""
        text = encoder_hidden_states.shape[1]
        out = self.together(attn, torch.cat([encoder_hidden_states, hidden_states], dim=1), text, image_rotary_emb, attention_mask)
        return out[:, text:], out[:, :text]

    def together(self, attn: Any, joint: Tensor, text: int, rotary: Tensor | Rotary | None, mask: Tensor | None = None) -> Tensor:
        """The same for `joint` (batch, text + video tokens, width), text first; of its shape."""
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in project(attn, joint))
        if self.ops is not None and (rotary is None or isinstance(rotary, Tensor)):
            self.ops.turned(query, key, attn.norm_q, attn.norm_k, text, rotary)
            query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        else:
            query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            if attn.norm_q is not None:
                query, key = attn.norm_q(query), attn.norm_k(key)
            if rotary is not None:
                turn(query[:, :, text:], rotary)
                turn(key[:, :, text:], rotary)
        seen = self._attended(query, key, value, mask)
        out: Tensor = attn.to_out[1](attn.to_out[0](seen.transpose(1, 2).flatten(2)))
        return out

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.attend(query, key, value)
        if self.name != "native":
            raise ValueError(f"the attention kernel {self.name} takes no mask; CogVideoX needs none")
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def turn(vectors: Tensor, rotary: Tensor | Rotary) -> None:
    """Rotate every pair of `vectors` (batch, heads, tokens, width) in place: by complex (tokens, width / 2), or by tables."""
    if not isinstance(rotary, Tensor):
        vectors.copy_(apply_rotary_emb(vectors, rotary))
        return
    pairs = torch.view_as_complex(vectors.float().unflatten(3, (-1, 2)).contiguous())
    vectors.copy_(torch.view_as_real(pairs.mul_(rotary)).flatten(3))


def as_complex(rotary: Rotary) -> Tensor:
    """cos + i sin, complex64 (tokens, width / 2), from diffusers' tables (tokens, width), where each value stands twice."""
    cos, sin = rotary
    return torch.complex(cos[:, ::2].contiguous(), sin[:, ::2].contiguous())


def attend_of(attn: Any) -> Attend:
    """The kernel of a layer's processor; torch's own under diffusers' processor."""
    return getattr(attn.processor, "attend", native)


@torch.inference_mode()
def speed_up(transformer: Any, rotary: Rotary | None) -> bool:
    """Use `JointAttention` in `transformer` if it gives the very same bits on this machine; says whether it does.

    `rotary`: the tables of a real clip, or None for a model without. Whether a multiply-add is fused depends on the
    processor, so it is tried.
    """
    stock = transformer.attn_processors
    expected = _tried(transformer, rotary, rotary)
    transformer.set_attn_processor(JointAttention())
    if _same(_tried(transformer, rotary, None if rotary is None else as_complex(rotary)), expected):
        return True
    transformer.set_attn_processor(stock)
    return False


@torch.inference_mode()
def pack_if_equal(transformer: Any, tokens: int) -> int:
    """One product for queries, keys and values in every block where `tokens` tokens give the very same bits with it; how many.

    Wants `JointAttention` in `transformer`. A product's kernel, and so its last bits, may depend on its size and on where its
    weights lie, so give the tokens of a real clip; every block is tried.
    """
    count, joint = 0, None
    for block in transformer.transformer_blocks:
        attn = block.attn1
        if not isinstance(attn.processor, JointAttention) or not plain(attn.to_q):
            continue
        weight = attn.to_q.weight
        if joint is None:  # one for all: a large clip's takes long to draw
            joint = torch.randn(1, tokens, weight.shape[1], generator=torch.Generator(weight.device).manual_seed(1), device=weight.device)
            joint = joint.to(weight.dtype)
        expected = project(attn, joint)
        if (kept := pack(attn)) is None:
            continue
        if _same(project(attn, joint), expected):
            count += 1
        else:
            unpack(attn, kept)
    return count


def install(transformer: Any, name: str, *, asked: bool, device: torch.device, dtype: torch.dtype) -> str:
    """Use the kernel `name` in every block; says which is used.

    It is tried first. One that fails is refused with `InvalidRequest` (attention) if a person `asked` for it; one that was
    chosen for them gives way to 'native', and the log says why. `device`, `dtype`: where and in what it will run; the
    weights may be elsewhere, and stored otherwise.
    """
    attn = transformer.transformer_blocks[0].attn1
    try:
        attend = kernel(name)
        problem = trial(attend, lossy=is_lossy(name), heads=attn.heads, width=attn.inner_dim // attn.heads, dtype=dtype, device=device)
    except (ImportError, OSError, AttributeError) as error:  # OSError: a shared library of another CUDA
        problem = f"it cannot be imported ({type(error).__name__}: {str(error)[:160]})"
    if not problem:
        transformer.set_attn_processor(JointAttention(attend, name))
        return name
    if asked:
        raise InvalidRequest("attention", f"is {name!r}, which fails on this machine: {problem}. Choose another with "
                                          "SPROCKET_ATTENTION, or 'auto'.", suggestion="auto")
    log.warning("attention kernel %s is not used: %s. torch's own is used instead; the result is the same.", name, problem)
    transformer.set_attn_processor(JointAttention())
    return "native"


def _tried(transformer: Any, tables: Rotary | None, rotary: Tensor | Rotary | None) -> tuple[Tensor, Tensor]:
    attn = transformer.transformer_blocks[0].attn1
    weight = attn.to_q.weight
    generator = torch.Generator().manual_seed(0)
    text, video = (torch.randn(2, n, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
                   for n in (3, TRIAL_TOKENS if tables is None else len(tables[0])))
    return attn(video, encoder_hidden_states=text, image_rotary_emb=rotary)


def _same(given: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
