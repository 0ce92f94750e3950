"""The recipe at toy size: stopped and resumed it makes the same bits; its parts mean what they say."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from engine.interpolate.adapter import read_facts
from training.pocket import denoiser, interpolator, interpolator_stage, latents, reader, vae, world
from training.pocket.__main__ import make_interpolator, parse
from training.pocket.arithmetic import native
from training.pocket.attention import BatchedAttention, attend
from training.pocket.models import Architecture, build_scheduler, build_transformer
from training.pocket.optimizer import orthogonalise
from training.pocket.recipe import (
    Recipe,
    Workshop,
    build_denoiser,
    export,
    extended,
    load_vae,
    run_animator,
    run_decoder,
    run_denoiser,
    run_latents,
    run_reader,
    run_vae,
    trained_denoiser,
    with_input,
)
from training.pocket.tokenizer import build_tokenizer
from training.pocket.trainer import Schedule

TOY = Recipe(
    seed=5,
    architecture=Architecture(
        vae_channels=(8, 8, 8, 8), vae_groups=4, heads=2, head_dim=16, layers=1, time_dim=16, text_dim=16, text_layers=1
    ),
    vae_phases=(vae.VaePhase(3, 1, 32, 32), vae.VaePhase(1, 1, 64, 64)),
    decoder_phases=(vae.VaePhase(2, 1, 32, 32, 17),),
    shelves=(latents.Shelf(9, 4),),
    reader_phase=reader.ReaderPhase(3, 4),
    denoiser_phases=(
        denoiser.DenoiserPhase(2, 192, ((9, 1, 1.0),)),
        denoiser.DenoiserPhase(2, 288, ((9, 3, 1.0),)),
    ),
    animator_phases=(denoiser.DenoiserPhase(2, 288, ((9, 3, 1.0),)),),
    preview_clips=2,
)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 2)


def run_all(recipe: Recipe, shop: Workshop) -> None:
    run_vae(recipe, shop)
    run_latents(recipe, shop, lambda text: None)
    run_reader(recipe, shop)
    run_denoiser(recipe, shop)
    run_animator(recipe, shop)
    run_decoder(recipe, shop)


@dataclass(frozen=True)
class Made:
    """All stages in one go. shop: their work folder; pocket: the exported pipeline; facts: what that said. Not to be changed."""

    shop: Workshop
    pocket: Path
    facts: dict


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    shop = Workshop(folder / "work")
    shop.folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "SHARD", 2)
        run_all(TOY, shop)
        return Made(shop, folder / "pocket", export(TOY, shop, folder / "pocket"))


def test_stopped_and_resumed_equals_uninterrupted(tmp_path, small_shards, whole):
    broken = Workshop(tmp_path)
    run_vae(TOY, replace(broken, until=2))
    run_vae(TOY, broken)
    run_latents(TOY, broken, lambda text: None)
    (broken.folder / "latents-09-0001.safetensors").unlink()
    run_latents(TOY, broken, lambda text: None)
    run_reader(TOY, replace(broken, until=1))
    run_reader(TOY, broken)
    run_denoiser(TOY, replace(broken, until=1))
    run_denoiser(TOY, replace(broken, until=3))
    run_denoiser(TOY, broken)
    run_animator(TOY, replace(broken, until=1))
    run_animator(TOY, broken)
    run_decoder(TOY, replace(broken, until=1))
    run_decoder(TOY, broken)
    paths = sorted(whole.shop.folder.glob("*.safetensors"))
    assert len(paths) == 7
    for path in paths:
        left, right = load_file(path), load_file(broken.folder / path.name)
        assert left.keys() == right.keys()
        for name, tensor in left.items():
            assert torch.equal(tensor, right[name]), (path.name, name)


def test_a_finished_stage_can_be_extended(tmp_path, whole):
    longer = extended(TOY, "vae", 2)
    assert [phase.steps for phase in longer.vae_phases] == [3, 3]
    with pytest.raises(ValueError, match="'latents'"):
        extended(TOY, "latents", 2)
    shutil.copy(whole.shop.folder / "vae.safetensors", tmp_path)
    run_vae(longer, Workshop(tmp_path))
    with safe_open(tmp_path / "vae.safetensors", "pt") as file:
        assert file.metadata()["step"] == "6"


def test_the_export_runs_in_the_stock_pipeline(whole):
    pipeline = CogVideoXPipeline.from_pretrained(whole.pocket, dtype=native())
    assert pipeline.vae.config.scaling_factor == whole.facts["scaling_factor"]
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline("a red ball rises", num_frames=9, num_inference_steps=2, max_sequence_length=48, output_type="np")
    assert result.frames.shape == (1, 9, 128, 192, 3)
    assert np.isfinite(result.frames).all()
    animator = CogVideoXImageToVideoPipeline.from_pretrained(whole.pocket.with_name("pocket-i2v"), dtype=native())
    assert torch.equal(animator.vae.decoder.conv_in.conv.weight, pipeline.vae.decoder.conv_in.conv.weight)
    animator.set_progress_bar_config(disable=True)
    picture = Image.new("RGB", (192, 128), "navy")
    result = animator(picture, "a red ball rises", num_frames=9, num_inference_steps=2, max_sequence_length=48, output_type="np")
    assert result.frames.shape == (1, 9, 128, 192, 3)
    assert np.isfinite(result.frames).all()


def test_the_refined_decoder_leaves_the_latents_alone(whole):
    before, after = load_vae(TOY, whole.shop, decoder=False), load_vae(TOY, whole.shop)
    for left, right in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_loss_that_is_not_a_number_stops_before_the_weights(tmp_path):
    from training.pocket.trainer import TrainState, train

    model = torch.nn.Linear(2, 2)
    state = TrainState(model, tmp_path / "x.safetensors")
    before = model.weight.detach().clone()
    steps = train(state, Schedule(3, 1.0), lambda step: (model.weight.sum() * float("nan"), {}))
    with pytest.raises(FloatingPointError, match="step 0"):
        next(steps)
    assert torch.equal(model.weight, before)


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_the_schedule_warms_up_and_ends_at_nothing():
    schedule = Schedule(100, 1.0, warmup=10, cooldown=0.5)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(30) == 1.0
    assert schedule.at(75) == pytest.approx(0.5)
    assert schedule.at(100) == 0.0


def test_batched_attention_equals_the_stock_processor():
    torch.manual_seed(0)
    transformer = build_transformer(TOY.architecture).eval()
    inputs = {
        "hidden_states": torch.randn(1, 3, 8, 16, 24),
        "encoder_hidden_states": torch.randn(1, 5, 16),
        "timestep": torch.tensor([500]),
        "image_rotary_emb": denoiser.rotary(3, head_dim=16),
    }
    with torch.no_grad():
        stock = transformer(**inputs).sample
        transformer.set_attn_processor(BatchedAttention())
        assert torch.allclose(stock, transformer(**inputs).sample, atol=1e-5)


def test_its_gradients_are_those_of_softmax():
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    grad = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    plain = torch.softmax(given[0] @ given[1].transpose(-1, -2) / 8**0.5, dim=-1) @ given[2]
    wanted = torch.autograd.grad(plain, given, grad)
    got = torch.autograd.grad(attend(*given), given, grad)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(wanted, got, strict=True))


def test_the_opened_forward_pass_is_the_whole_one():
    torch.manual_seed(0)
    transformer = build_transformer(TOY.architecture).eval()
    transformer.set_attn_processor(BatchedAttention())
    noisy, text, t = torch.randn(2, 3, 8, 16, 24), torch.randn(2, 5, 16), torch.tensor([500, 30])
    rope = denoiser.rotary(3, head_dim=16)
    with torch.no_grad():
        whole = transformer(noisy, text, t, image_rotary_emb=rope).sample
        tokens, halfway = denoiser.predict(transformer, noisy, text, t, rope)
    assert torch.allclose(denoiser.to_tokens(whole), tokens, atol=1e-5)
    assert halfway.shape == (2, 288, 32)


def test_telling_time_sets_first_and_last_latent_frame_apart():
    """The fastest temporal frequency turns full circle in 6.28 frames, so 0 and 6 look alike to it."""
    def apart(tell: bool) -> float:
        torch.manual_seed(0)
        transformer = build_transformer(Architecture()).eval()
        if tell:
            denoiser.tell_time(transformer)
        block, seen = transformer.transformer_blocks[0], []
        block.register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
        video = torch.randn(1, 1, 8, 16, 24).expand(1, 7, -1, -1, -1)  # every frame alike: only time can tell them apart
        with torch.no_grad():
            transformer(video, torch.randn(1, 20, 128), torch.tensor([999]), image_rotary_emb=denoiser.rotary(7, head_dim=32))
        first, last = seen[0].view(7, -1)[[0, 6]]
        return float((last - first).norm() / first.norm())

    assert apart(tell=True) > 3 * apart(tell=False)


def test_answers_are_those_of_the_scene():
    for index in range(50):
        scene = world.scene_at(3, index)
        said = dict(zip((name for name, _ in reader.QUESTIONS), reader.answers(scene), strict=True))
        options = dict(reader.QUESTIONS)
        assert options["shape"][said["shape"]] == scene.subjects[0].shape
        assert (options["second shape"][said["second shape"]] == "none") == (len(scene.subjects) == 1)
        assert options["motion"][said["motion"]] == scene.motion


def test_reading_is_judged_at_every_position_and_not_where_nothing_is_asked():
    scene = world.scene_at(3, 0)
    right = torch.tensor([reader.answers(scene), [reader.UNREAD] * len(reader.QUESTIONS)])
    heads = torch.nn.Linear(reader.ANSWERS, reader.ANSWERS, bias=False)
    torch.nn.init.eye_(heads.weight)
    knows, start = torch.zeros(reader.ANSWERS), 0
    for answer, (_, options) in zip(right[0].tolist(), reader.QUESTIONS, strict=True):
        knows[start + answer], start = 20.0, start + len(options)
    states = torch.stack([knows.expand(4, -1), torch.zeros(4, reader.ANSWERS)])
    loss, facts = reader.reading_loss(heads, states, right)
    assert float(loss.detach()) < 1e-3 and facts["read"] == 1.0
    states = states.clone()
    states[0, 3] = 0.0  # one position that knows nothing
    assert float(reader.reading_loss(heads, states, right)[0].detach()) > 0.3
    silent = torch.full_like(right, reader.UNREAD)
    assert float(reader.reading_loss(heads, states, silent)[0].detach()) == 0.0


def test_captions_to_read_are_a_function_of_seed_and_step():
    tokenizer, phase = build_tokenizer(), reader.ReaderPhase(1, 6)
    first, second = (reader.draw_captions(tokenizer, phase, seed=1, step=4) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[1], reader.draw_captions(tokenizer, phase, seed=1, step=5)[1])


def test_going_on_from_released_weights_begins_the_last_phase_with_them(tmp_path, small_shards, whole):
    again = Workshop(tmp_path, released=whole.pocket, until=0)
    run_latents(TOY, again, lambda text: None)
    model = build_denoiser(TOY, again)
    released = load_file(whole.pocket / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, weight in model["transformer"].named_parameters():
        assert torch.equal(weight, released[name].float())
    run_denoiser(TOY, replace(again, until=3))
    with safe_open(tmp_path / "denoiser.safetensors", "pt") as file:
        assert file.metadata() == {"step": "3", "count": "1"}  # one step of the last phase
    after = trained_denoiser(TOY, again)
    for name, weight in after["text_encoder"].named_parameters():
        assert torch.equal(weight, model["text_encoder"].get_parameter(name)), name
    assert any(not torch.equal(w, released[name].float()) for name, w in after["transformer"].named_parameters())


def test_stage_two_goes_on_from_the_released_one_as_often_as_it_is_asked(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(interpolator, "SCENES", 2)
    monkeypatch.setattr(interpolator_stage, "SCENES", 2)
    shutil.copytree(whole.pocket.parent, tmp_path / "made", symlinks=True, ignore=shutil.ignore_patterns("work"))
    recipe = replace(TOY, interpolation=interpolator.Interpolation(steps=2, batch=2, scenes=2, rank=4, modulation_rank=2))
    out, file = tmp_path / "made" / "pocket", tmp_path / "made" / "pocket-stage2" / "stage2.safetensors"
    common = ["--out", str(out), "--device", "cpu", "--stages", "interpolator"]
    (tmp_path / "first").mkdir()
    make_interpolator(parse([*common, "--work", str(tmp_path / "first")]), recipe)
    first = load_file(file)
    more = parse([*common, "--work", str(tmp_path / "more"), "--released", str(out)])
    more.work.mkdir()
    make_interpolator(more, replace(recipe, interpolation=replace(recipe.interpolation, lr=0.0)))
    assert read_facts(file).trained_steps == 4
    assert all(torch.equal(value, first[name]) for name, value in load_file(file).items())  # nothing learned, nothing lost
    make_interpolator(more, recipe)  # begun again after its end: as if once
    assert read_facts(file).trained_steps == 4


def test_an_outline_weighs_more_than_what_it_encloses():
    outside, outline, inside = denoiser.emphasis(torch.tensor([0.0, 0.5, 1.0])).tolist()
    assert 1.0 == outside < inside < outline


def test_image_to_video_begins_as_text_to_video():
    torch.manual_seed(0)
    start = build_transformer(TOY.architecture).eval()
    start.set_attn_processor(BatchedAttention())
    noisy, text, t = torch.randn(2, 3, 8, 16, 24), torch.randn(2, 5, 16), torch.tensor([500, 30])
    rope = denoiser.rotary(3, head_dim=16)
    with torch.no_grad():
        wanted = start(noisy, text, t, image_rotary_emb=rope).sample
        both = torch.cat([noisy, torch.randn_like(noisy)], dim=2)
        got = with_input(TOY, start, pictures=True).eval()(both, text, t, image_rotary_emb=rope).sample
    assert torch.allclose(wanted, got, atol=1e-6)


def test_text_to_video_is_image_to_video_without_a_picture():
    torch.manual_seed(0)
    both = build_transformer(TOY.architecture, pictures=True).eval()
    both.set_attn_processor(BatchedAttention())
    noisy, text, t = torch.randn(2, 3, 8, 16, 24), torch.randn(2, 5, 16), torch.tensor([500, 30])
    rope = denoiser.rotary(3, head_dim=16)
    with torch.no_grad():
        wanted = both(torch.cat([noisy, torch.zeros_like(noisy)], dim=2), text, t, image_rotary_emb=rope).sample
        got = with_input(TOY, both, pictures=False).eval()(noisy, text, t, image_rotary_emb=rope).sample
    assert torch.allclose(wanted, got, atol=1e-5)


def test_the_picture_stands_in_the_first_frame_only(small_shards, whole):
    shelves = {9: latents.load_shelf(whole.shop.folder, TOY.shelves[0])}
    phase = TOY.animator_phases[0]
    tokenizer = build_tokenizer()
    words, pictures = (denoiser.draw_batch(shelves, tokenizer, phase, 1.0, seed=5, step=1, pictures=p) for p in (0.0, 1.0))
    assert words.beside.shape[2] == 0
    assert pictures.beside.shape == pictures.latents.shape
    assert pictures.beside[:, 0].abs().min() > 0 and not pictures.beside[:, 1:].any()


def test_a_share_of_the_clips_is_given_its_picture(small_shards, whole):
    shelves = {9: latents.load_shelf(whole.shop.folder, TOY.shelves[0])}
    phase = denoiser.DenoiserPhase(1, 50 * 288, ((9, 3, 1.0),))
    batch = denoiser.draw_batch(shelves, build_tokenizer(), phase, 1.0, seed=5, step=1, pictures=0.4)
    shown = batch.beside.flatten(1).any(dim=1)
    assert len(shown) == 50 and 10 <= int(shown.sum()) <= 30


def test_the_objective_matches_the_scheduler():
    scheduler = build_scheduler()
    torch.manual_seed(0)
    clean, noise, t = torch.randn(2, 3, 8, 4, 4), torch.randn(2, 3, 8, 4, 4), torch.tensor([10, 900])
    a = scheduler.alphas_cumprod.float()[t].view(-1, 1, 1, 1, 1)
    assert float(scheduler.alphas_cumprod[999]) == 0.0
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    assert torch.allclose(noisy, scheduler.add_noise(clean, noise, t), atol=1e-6)
    target = a.sqrt() * noise - (1 - a).sqrt() * clean
    assert torch.allclose(target, scheduler.get_velocity(clean, noise, t), atol=1e-6)


def test_the_latent_mask_pairs_four_frames_with_each_latent_after_the_first():
    mask = np.zeros((9, 16, 16), np.uint8)
    mask[1:5, :8, :8] = 255
    cells = latents.latent_mask(mask)
    assert cells.shape == (3, 2, 2)
    assert cells[:, 0, 0].tolist() == [0, 255, 0]


def test_crops_are_a_function_of_seed_and_step():
    phase = vae.VaePhase(1, 2, 64, 64)
    first, second = vae.crop_batch(1, 7, phase), vae.crop_batch(1, 7, phase)
    assert first[0].shape == (2, 3, 9, 64, 64)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], vae.crop_batch(1, 8, phase)[0])
    assert world.WIDTH == 192


def test_what_is_hard_to_tell_is_drawn_oftener():
    shelf = latents.Shelf(25, 300)
    shares = denoiser.clip_shares(shelf, 3)
    scenes = [world.scene_at(shelf.seed(3), row) for row in range(300)]
    plain = next(share for share, scene in zip(shares, scenes, strict=True) if (scene.subjects[0].shape, scene.motion) == ("ball", "rises"))
    assert shares.sum() == pytest.approx(1)
    for share, scene in zip(shares, scenes, strict=True):
        more = denoiser.DRAWN_MORE.get(scene.subjects[0].shape, 1.0) * denoiser.DRAWN_MORE.get(scene.motion, 1.0)
        assert share / plain == pytest.approx(more)
    stars, hearts = (sum(s for s, scene in zip(shares, scenes, strict=True) if scene.subjects[0].shape == w) for w in ("star", "heart"))
    assert stars > hearts
