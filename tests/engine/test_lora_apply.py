"""LoRAs on the transformer: diffusers' result bit for bit, in any precision, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.digest import file_sha256
from engine.errors import InvalidRequest
from engine.models.cache import ModelCache
from engine.plan import Plan
from engine.sample import SampleState, sample
from tests.engine.test_parity_modes import IMAGE, frames_of, pipeline
from tests.lora_files import ATTENTION, lora_weights, save_lora

Made = Callable[..., Plan]
CacheOf = Callable[[Plan], ModelCache]
EVERYTHING = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear", "time_embedding.linear_1", "proj_out",
              "norm_out.linear", "patch_embed.text_proj")


STEPS = 2


def added(folder: Path, file: Path) -> str:
    """The name of `file` in the folder of LoRAs."""
    name = f"{file_sha256(file)}.safetensors"
    shutil.copyfile(file, folder / name)
    return name


@pytest.fixture
def two(tmp_path: Path) -> Callable[[Path], list[Path]]:
    """Two LoRAs for the model in a folder: attention only, and every layer with another rank and an alpha of its own."""

    def make(model: Path) -> list[Path]:
        first = save_lora(tmp_path / "first.safetensors", lora_weights(model, rank=4, seed=1))
        config = {"r": 8, "lora_alpha": 4.0, "target_modules": list(EVERYTHING), "peft_type": "LORA"}
        wide = lora_weights(model, rank=8, seed=2, targets=EVERYTHING, size=0.1)
        second = save_lora(tmp_path / "second.safetensors", wide, config=config)
        return [first, second]

    return make


def of_engine(job: Plan, models: ModelCache, folder: Path) -> torch.Tensor:
    models.get(job).loras.use(job.loras, folder)
    return sampled(job, models)


def sampled(job: Plan, models: ModelCache) -> torch.Tensor:
    """The last latents, with whatever LoRAs work now."""
    model, generator = models.get(job), torch.Generator().manual_seed(job.seed)
    text = model.encode(job.prompt, job.negative if job.guided else None)
    moments = [part for _, part in model.encode_frames(frames_of(1), job.tile)] if job.mode == "i2v" else []
    beside = model.image_beside(moments, job.latent_shape, generator) if moments else None
    start = SampleState(0, model.initial_latents(job.latent_shape, generator), None)
    weights = (job.guidance,) * job.steps
    return list(sample(model, model.scheduler(job.scheduler, job.steps), text, start, weights, generator, beside))[-1].latents


def of_diffusers(job: Plan, files: list[Path], weights: list[float]) -> torch.Tensor:
    from PIL import Image

    pipe = pipeline(job)
    for number, file in enumerate(files):
        pipe.load_lora_weights(str(file), adapter_name=f"lora{number}")
    pipe.set_adapters([f"lora{number}" for number in range(len(files))], weights)
    kept: dict[str, Any] = {}

    def keep(_pipe: Any, _index: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.update(values)
        return values

    given = {"image": Image.fromarray(frames_of(1)[0])} if job.mode == "i2v" else {}
    pipe(prompt=job.prompt, negative_prompt=job.negative, height=job.height, width=job.width, num_frames=job.frames,
         num_inference_steps=job.steps, guidance_scale=job.guidance, generator=torch.Generator().manual_seed(job.seed),
         max_sequence_length=job.spec.max_text_tokens, callback_on_step_end=keep, output_type="latent", **given)
    return kept["latents"]


@pytest.mark.parametrize(("kind", "dtype"), [("rope", "fp32"), ("sincos", "fp32"), ("1.5", "fp32"), ("i2v-rope", "fp32"),
                                             ("i2v-1.5", "bf16"), ("rope", "bf16")])
def test_a_stack_equals_diffusers(kind: str, dtype: str, tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                  two: Callable[[Path], list[Path]]) -> None:
    files = two(tiny(kind))
    fields = {"image": IMAGE} if kind.startswith("i2v") else {}
    weights = [0.8, -1.5]
    names = [added(tmp_path, file) for file in files]
    job = replace(tiny_plan(kind, steps=STEPS, loras=tuple(zip(names, weights, strict=True)), **fields), dtype=dtype)
    expected = of_diffusers(job, files, weights)
    models = ModelCache()
    given = of_engine(job, models, tmp_path)
    assert torch.equal(given, expected)
    for loras in ((), job.loras[:1], job.loras[1:]):  # each of them does something
        assert not torch.equal(of_engine(replace(job, loras=loras), models, tmp_path), expected)
    models.close()


@pytest.mark.parametrize(("style", "alpha"), [("older", None), ("kohya", 2.0), ("bare", 2.0), ("peft", 2.0)])
def test_every_format_means_the_same(style: str, alpha: float | None, tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                     cache_of: CacheOf) -> None:
    """Against peft's own config of the same alpha, which diffusers applies (see above)."""
    weights = lora_weights(tiny(), targets=(*ATTENTION, "ff.net.0.proj", "time_embedding.linear_2"))
    plain = save_lora(tmp_path / "plain.safetensors", weights, config={"r": 4, "lora_alpha": alpha or 4})
    other = save_lora(tmp_path / "other.safetensors", weights, style=style, alpha=alpha)
    results = []
    for file in (plain, other):
        job = tiny_plan(steps=STEPS, loras=((added(tmp_path, file), 0.7),))
        results.append(of_engine(job, cache_of(job), tmp_path))
    assert torch.equal(*results)


def test_rank_stabilised_and_alpha_of_single_layers(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path, cache_of: CacheOf) -> None:
    weights = lora_weights(tiny(), rank=4) | lora_weights(tiny(), rank=9, seed=3, targets=("ff.net.2",))
    config = {"r": 4, "lora_alpha": 2.0, "rank_pattern": {"ff.net.2": 9}, "alpha_pattern": {"ff.net.2": 5.0}, "use_rslora": True,
              "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"], "peft_type": "LORA"}
    file = save_lora(tmp_path / "x.safetensors", weights, config=config)
    job = tiny_plan(steps=STEPS, loras=((added(tmp_path, file), 1.0),))
    assert torch.equal(of_engine(job, cache_of(job), tmp_path), of_diffusers(job, [file], [1.0]))


def test_the_base_model_comes_back_bit_for_bit(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                               two: Callable[[Path], list[Path]]) -> None:
    """On a warm model, with the same model object, whatever LoRAs worked between."""
    first, second = (added(tmp_path, file) for file in two(tiny()))
    models, job = ModelCache(), tiny_plan(steps=STEPS)
    model = models.get(job)
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    base = of_engine(job, models, tmp_path)
    seen = []
    for loras in (((first, 1.0),), ((first, 1.0), (second, 0.5)), ((first, -0.3),)):
        seen.append(of_engine(replace(job, loras=loras), models, tmp_path))
        assert models.get(job) is model
        assert torch.equal(of_engine(replace(job, loras=()), models, tmp_path), base)
    assert torch.equal(of_engine(replace(job, loras=((first, 1.0),)), models, tmp_path), seen[0])
    after = model.transformer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    models.close()


def test_a_lora_that_is_refused_changes_nothing(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                                two: Callable[[Path], list[Path]]) -> None:
    first, second = (added(tmp_path, file) for file in two(tiny()))
    models, job = ModelCache(), tiny_plan(steps=STEPS, loras=((first, 1.0),))
    before = of_engine(job, models, tmp_path)
    (tmp_path / second).write_bytes((tmp_path / second).read_bytes()[:-4] + b"\0\0\0\0")
    for loras, says in (((second, 1.0), "was changed after"), ((f"{'0' * 64}.safetensors", 1.0), "not among the LoRAs")):
        with pytest.raises(InvalidRequest, match=says):
            models.get(job).loras.use((*job.loras, loras), tmp_path)
    assert torch.equal(sampled(job, models), before)
    models.close()


@pytest.mark.parametrize("first", ["lora", "storage"])
def test_with_weights_in_eight_bits(first: str, tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                    two: Callable[[Path], list[Path]]) -> None:
    """FP8 storage, before the LoRA or after: the same numbers, and the base as it was (peft raises in one order)."""
    names = [added(tmp_path, file) for file in two(tiny())]
    job = tiny_plan(steps=STEPS, loras=tuple((name, 0.9) for name in names))
    expected = None
    for order in (("storage", "lora"), (first, "storage" if first == "lora" else "lora")):
        models = ModelCache()
        model = models.get(job)
        for step in order:
            if step == "lora":
                model.loras.use(job.loras, tmp_path)
            else:
                model.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        given = sampled(job, models)
        without = of_engine(replace(job, loras=()), models, tmp_path)
        assert not torch.equal(given, without) and torch.isfinite(given).all()
        assert expected is None or torch.equal(given, expected)
        expected = given
        models.close()


def test_on_int8_weights(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path, two: Callable[[Path], list[Path]]) -> None:
    """torchao's INT8 matrices: the LoRA's own effect is that on the plain model, within the rounding of the base."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    names = [added(tmp_path, file) for file in two(tiny())]
    job = tiny_plan(steps=STEPS, loras=tuple((name, 0.9) for name in names))
    plain = ModelCache()
    wanted = of_engine(job, plain, tmp_path)
    models = ModelCache()
    quantize_(models.get(job).transformer.transformer_blocks, Int8WeightOnlyConfig())
    given = of_engine(job, models, tmp_path)
    base = of_engine(replace(job, loras=()), models, tmp_path)
    assert (given - wanted).abs().mean() < 0.1 * (given - base).abs().mean()
    assert torch.equal(of_engine(job, models, tmp_path), given)
    for cache in (plain, models):
        cache.close()


def test_compiled_blocks_follow_the_loras(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                          two: Callable[[Path], list[Path]]) -> None:
    names = [added(tmp_path, file) for file in two(tiny())]
    job = tiny_plan(loras=((names[0], 1.0),), steps=1, guidance=1.0)
    models = ModelCache()
    expected, base = (of_engine(each, models, tmp_path) for each in (job, replace(job, loras=())))
    for block in models.get(job).transformer.transformer_blocks:
        block.forward = torch.compile(block.forward, backend="eager")
    for _ in range(2):
        assert torch.equal(of_engine(replace(job, loras=()), models, tmp_path), base)
        assert torch.equal(of_engine(job, models, tmp_path), expected)
    models.close()


def test_code_that_goes_round_a_layer_is_found_out(tiny: Callable[..., Path], tiny_plan: Made, tmp_path: Path,
                                                   two: Callable[[Path], list[Path]]) -> None:
    job = tiny_plan(steps=STEPS, loras=((added(tmp_path, two(tiny())[0]), 1.0),))
    models = ModelCache()
    for block in models.get(job).transformer.transformer_blocks:
        block.attn1.fuse_projections()
        layer = block.attn1.to_q
        block.attn1.to_q = torch.nn.Sequential()  # still there by name, and no longer what is called
        block.attn1.to_q.forward = layer.forward
        block.attn1.processor = Fused()
    with pytest.raises(RuntimeError, match=r"did not run as layers \(transformer_blocks"):
        of_engine(job, models, tmp_path)
    models.close()


class Fused:
    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_rest: Any) -> Any:
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, _key, _value = attn.to_qkv(joint).chunk(3, dim=-1)
        out = attn.to_out[0](query)
        text = encoder_hidden_states.shape[1]
        return out[:, text:], out[:, :text]


def test_on_the_embedded_model(tmp_path: Path) -> None:
    """A random LoRA for the weights that ship: the same latents as diffusers, and other ones than without it."""
    from engine.models.catalogue import pocket_dir
    from engine.plan import plan
    from engine.request import GenerationRequest
    from engine.spec import read_spec
    from tests.engine.tiny import CPU

    file = save_lora(tmp_path / "x.safetensors", lora_weights(pocket_dir(), rank=2, size=0.05))
    wish = GenerationRequest(prompt="a red ball bounces over a green meadow", seed=3, steps=1, frames=9,
                             loras=((added(tmp_path, file), 0.8),))
    job, models = plan(wish, read_spec(pocket_dir(), "pocket"), CPU), ModelCache()
    given = of_engine(job, models, tmp_path)
    assert torch.equal(given, of_diffusers(job, [file], [0.8]))
    assert not torch.equal(given, of_engine(replace(job, loras=()), models, tmp_path))
    models.close()
