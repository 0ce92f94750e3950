"""A transformer whose blocks work on a part of the tokens: cut before the first block, joined after the last product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from engine.parallel.attend import token_part
from engine.parallel.degrees import Degrees, Share, share_of
from engine.parallel.mesh import Mesh
from engine.spec import ModelSpec


def clip_share(degrees: Degrees, spec: ModelSpec, latents: tuple[int, ...], text: int) -> Share:
    """Who has which tokens of a clip with latents of this shape (rows, frames, channels, height, width) and `text` tokens of words."""
    frames, high, wide = latents[1], latents[3] // spec.patch_size, latents[4] // spec.patch_size
    return share_of(degrees, text, -(-frames // (spec.patch_size_t or 1)) * high * wide, spec.heads)


@contextmanager
def divided_tokens(transformer: Any, mesh: Mesh, share: Share) -> Iterator[None]:
    """Within it the blocks of `transformer` see this rank's tokens; its result is whole on every rank that shares them.

    Its attention must see everybody's meanwhile (`engine.parallel.attend`): that is the caller's business.
    """
    part = mesh.part

    def turned(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        table = named.get("image_rotary_emb")
        if isinstance(table, Tensor):
            table = token_part(table, share.video, part, 0)
        elif table is not None:
            table = tuple(token_part(one, share.video, part, 0) for one in table)
        return given, named | {"image_rotary_emb": table}

    def cut(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Named by diffusers' loop, and in order where a block's work is done again for its gradient."""
        video, words = given[:2] if given else (named["hidden_states"], named["encoder_hidden_states"])
        video, words = (token_part(one, sizes, part, 1).contiguous() for one, sizes in ((video, share.video), (words, share.text)))
        return ((video, words, *given[2:]), named) if given else (given, named | {"hidden_states": video, "encoder_hidden_states": words})

    def whole(_: Any, given: Any, result: Tensor) -> Tensor:
        return mesh.gathered(result, share.video, 1)

    with ExitStack() as stack:
        for hook in (transformer.register_forward_pre_hook(turned, with_kwargs=True),
                     transformer.transformer_blocks[0].register_forward_pre_hook(cut, with_kwargs=True),
                     transformer.proj_out.register_forward_hook(whole)):  # after the hooks of LoRAs, which see their own part
            stack.callback(hook.remove)
        yield
