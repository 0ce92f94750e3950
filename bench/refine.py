"""The pocket refiner measured: `python -m bench.refine [--clips 12]`.

    500 wishes in words of their own, held-out combinations: how many captions keep every stated fact and name nothing foreign
    seconds a wish, and of the first one, which loads the weights
    with --clips N: N terse wishes made into clips as they are and refined, same seeds, read back by `pocket_vision`
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.refine_score import judge
from bench.refine_wishes import PARTS, Asked, wishes
from engine.refine import Ask
from engine.refine.pocket import refine_pocket
from engine.refine.words import words_of
from training.pocket.captions import vocabulary
from training.refiner.lexicon import FILLERS
from training.refiner.wishes import JOINS, MADE, PREPOSITIONS, STUFF, VERY, WIDER


def wishes_table(part: str, count: int) -> dict[str, Any]:
    """Shares of `count` wishes of a part, and what was lost."""
    phrases = [phrase for table in WIDER[0].values() for each in table.values() for phrase in each]
    small = (*WIDER[1], *FILLERS, *STUFF, *MADE, *VERY, *JOINS, *PREPOSITIONS, "a the some one my it that which and", *vocabulary())
    known = {word for phrase in (*phrases, *small) for word in words_of(phrase)}
    asked = wishes(count, part)
    verdicts = [judge(each, refine_pocket(Ask(text=each.text)).text) for each in asked]
    new = [any(re.fullmatch(r"[a-z]{3,}", word) and word not in known for word in words_of(each.text)) for each in asked]
    stated = Counter(name for each in asked for name in each.facts)
    lost = Counter(name for verdict in verdicts for name in verdict.lost)
    kept_new = [verdict.kept for verdict, fresh in zip(verdicts, new, strict=True) if fresh]
    return {"part": part, "wishes": count, "kept": sum(v.kept for v in verdicts) / count, "foreign": sum(bool(v.foreign) for v in verdicts),
            "with a word training never saw": sum(new) / count, "kept of those": sum(kept_new) / max(1, len(kept_new)),
            "by fact": {name: 1 - lost[name] / stated[name] for name in stated}}  # fmt: skip


def seconds(count: int = 200) -> dict[str, float]:
    """Of the first wish (weights are read) and of each after it."""
    texts = [each.text for each in wishes(count)]
    begun = time.perf_counter()
    refine_pocket(Ask(text=texts[0]))
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    for text in texts[1:]:
        refine_pocket(Ask(text=text))
    return {"first": first, "each": (time.perf_counter() - begun) / (count - 1)}


def terse(count: int) -> list[Asked]:
    """Wishes for one subject that state all four attributes of the pocket's table, in few words."""
    four = {"shape", "colour", "background", "motion"}
    return [each for each in wishes(4000) if four <= set(each.facts) and "second shape" not in each.facts][:count]


def clips_table(count: int, model: Path, batch: int) -> dict[str, dict[str, float]]:
    """Share right by attribute of clips from the wishes as they are ('off') and refined ('on'), the same seeds."""
    from diffusers import CogVideoXPipeline

    from bench.pocket_eval import SEED, Case, Task, generate, scores
    from bench.pocket_vision import Reading, read_clip
    from engine.models.convolution import use_onednn
    from training.pocket.arithmetic import native

    recommended = json.loads((model / "sprocket.json").read_text())["recommended"]
    pipeline = CogVideoXPipeline.from_pretrained(model, dtype=native())
    use_onednn(pipeline.vae)
    pipeline.set_progress_bar_config(disable=True)
    asked, found = terse(count), {}
    for name in ("off", "on"):
        cases = []
        for start in range(0, count, batch):
            part = asked[start : start + batch]
            prompts = [each.text if name == "off" else refine_pocket(Ask(text=each.text)).text for each in part]
            truths = [Reading(*(each.facts[kind] for kind in ("shape", "colour", "background", "motion"))) for each in part]
            videos = generate(pipeline, [Task(prompt, truth) for prompt, truth in zip(prompts, truths, strict=True)], seed=SEED + start,
                              steps=recommended["num_inference_steps"], guidance=recommended["guidance_scale"],
                              frames=recommended["num_frames"])  # fmt: skip
            cases += [Case(prompt, truth, read_clip(video)) for prompt, truth, video in zip(prompts, truths, videos, strict=True)]
        found[name] = scores(cases)
    return found


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.refine", description=__doc__, formatter_class=plain)
    parser.add_argument("--wishes", type=int, default=500)
    parser.add_argument("--clips", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--model", type=Path, default=Path("assets/pocket"))
    parser.add_argument("--json", type=Path, help="also write the tables here")
    asked = parser.parse_args()
    spent = seconds()
    print(f"first wish {spent['first']:.3f} s, each after it {spent['each'] * 1000:.1f} ms")
    tables = [wishes_table(part, asked.wishes) for part in PARTS]
    for table in tables:
        print(f"{table['part']}: {table['kept']:.1%} of {table['wishes']} wishes keep every stated fact and name nothing else; "
              f"{table['foreign']} name something foreign")
        print(f"  {table['with a word training never saw']:.0%} hold a word that training never saw (typing errors too): "
              f"{table['kept of those']:.1%} of those")
        print("  " + ", ".join(f"{name} {share:.1%}" for name, share in table["by fact"].items()))
    clips = clips_table(asked.clips, asked.model, asked.batch) if asked.clips else {}
    for name, row in clips.items():
        print(f"refinement {name:<3} " + "  ".join(f"{key} {value:.0%}" for key, value in row.items()) + f"   ({asked.clips} clips)")
    if asked.json:
        asked.json.write_text(json.dumps({"seconds": spent, "wishes": tables, "clips": clips}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
