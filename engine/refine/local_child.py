"""The process of a local chat model: reads one task, writes pieces of the answer, ends. See `local.py`.

    {"source": ..., "messages": [...], "seed": 0, "max_new_tokens": 400}  ->  {"piece": "A "} {"piece": "ball"} ... {"end": true}
                                                                            or {"error": "..."}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOM = 64
"""Tokens a model's context keeps free at least."""


def main() -> int:
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_with_parent, args=(int(task["parent"]),), daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    say = lambda **said: print(json.dumps(said), file=out, flush=True)  # noqa: E731
    try:
        answer(task, lambda piece: say(piece=piece))
        say(end=True)
    except Exception as error:  # noqa: BLE001  (the parent says it; a stack of torch frames helps nobody)
        say(error=f"{type(error).__name__}: {str(error).splitlines()[0][:240] if str(error) else ''}")
    return 0


def answer(task: dict[str, Any], tell: Any) -> None:
    """Loads, generates, tells every piece of text as it is decoded. Raises what transformers raises."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

    known: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(task["source"], **known)
    if tokenizer.chat_template is None:
        raise ValueError("its tokenizer has no chat template, so it is no chat model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(task["source"], dtype="auto", use_safetensors=True, **known).to(device).eval()

    class Teller(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                tell(text)

    inputs = tokenizer.apply_chat_template(task["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    length = inputs["input_ids"].shape[1]
    context = getattr(model.config, "max_position_embeddings", None) or 10**6
    room = min(int(task["max_new_tokens"]), context - length)
    if room < ROOM:
        raise ValueError(f"it reads {context} tokens, and the instructions with your words have {length}; use a larger model or fewer "
                         "words")
    torch.manual_seed(int(task["seed"]))
    with torch.inference_mode():
        model.generate(**inputs.to(device), max_new_tokens=room, do_sample=int(task["seed"]) > 0, temperature=0.8 if task["seed"] else None,
                       pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                       streamer=Teller(tokenizer, skip_prompt=True, skip_special_tokens=True))


def _with_parent(parent: int) -> None:
    """Nobody waits for the answer any more: end."""
    while os.getppid() == parent or not Path(f"/proc/{os.getppid()}").exists():
        time.sleep(0.5)
    with contextlib.suppress(OSError):
        os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
