"""The named endpoints for `gradio_client`. Nothing here is reachable that the pages could not do.

    client.predict(prompt="a red ball", api_name="/submit")   -> job id (every other field is optional)
    client.predict("<job id>", api_name="/job")               -> {id, kind, title, state, stage, step, steps, eta_seconds, clip, error}
    client.predict("<job id>", api_name="/cancel")            -> the same, after the wish to stop was noted
    client.predict("red", 1, api_name="/clips")               -> {clips: [...], page, pages, total}; both are optional
    client.predict(api_name="/models")                        -> {models: [...]}: what is here, on its way, or could be downloaded
    client.predict([{"prompt": "a"}, {...}], api_name="/submit_batch")  -> {batch, jobs: [id, ...]}: all or none
    client.predict("<batch id>", api_name="/batch")           -> {batch, jobs: [as /job]}; "/cancel_batch" stops all of it first
    client.predict("<clip id>", 24, api_name="/interpolate")  -> job id; (clip, fps, slow, method, video, then, between)
    client.predict("ball goes up", api_name="/refine")        -> {text, original, notes, backend, tokens, max_tokens, fallback}
    client.predict("<job id>", api_name="/key_frames")        -> {frames: [...]} of a job with review; "/edit_key_frame", "/go_on" act on it
    client.predict("<clip id>", api_name="/publish")          -> {id, published_at}; "/unpublish", "/public_clips": `gallery_api`
    client.predict(api_name="/loras")                         -> {loras: [...]}: those a request may name

`clip` is None, or {id, url, poster, prompt, model, seed, ...} (`clip_json`): `url` is relative to the studio's address and answers
GET with the mp4.
Values are taken as they come: "25" is not 25, NaN is not a number, and the error says which field, value and limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from app.history.records import Clip, Job
from app.queue.kinds import job_title
from app.ui.gallery_api import checked_search, gallery_endpoints
from app.ui.html.common import clip_url, kind_of_clip, poster_url
from app.ui.parts import OWNER, guarded
from app.ui.refine_api import refine_endpoint
from app.ui.sessions import LeanBlocks
from app.ui.views import find_clip
from engine.errors import InvalidRequest

REQUEST_FIELDS = ("prompt", "negative", "model", "seed", "frames", "width", "height", "steps", "guidance", "scheduler",
                  "image", "video", "fit", "strength", "guidance_kind", "eta", "loras", "profile", "quality", "precision", "budget",
                  "device", "cache", "cfg_gate", "parallel", "key_frames", "fps", "given", "review", "wish", "refiner")


def job_json(job: Job, clip: Clip | None) -> dict[str, Any]:
    """What `/job` answers."""
    return {
        "id": job.id,
        "kind": job.kind,
        "title": job_title(job),
        "state": job.state.value,
        "stage": job.stage,
        "step": job.step,
        "steps": job.steps,
        "eta_seconds": job.eta_seconds,
        "clip": clip_json(clip) if clip else None,
        "error": job.error,
    }


def state_of(studio: Any, job_id: str) -> dict[str, Any]:
    """`job_json` of a job by its id. Raises NotFound."""
    job = studio.job(job_id, owner=OWNER)
    return job_json(job, find_clip(studio, job))


def clip_json(clip: Clip) -> dict[str, Any]:
    """One clip as the API shows it."""
    return {
        "id": clip.id,
        "name": clip.name,
        "url": clip_url(clip.id),
        "poster": poster_url(clip.id),
        "prompt": clip.prompt,
        "model": clip.model,
        "seed": clip.seed,
        "width": clip.width,
        "height": clip.height,
        "frames": clip.frames,
        "fps": clip.fps,
        "bytes": clip.size_bytes,
        "sha256": clip.sha256,
        "favourite": clip.favourite,
        "made_from": clip.made_from,
        "published_at": clip.published_at,
        "kind": kind_of_clip(clip),
        "created_at": clip.created_at,
    }


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields the caller said something about; None and '' mean "the model's own"."""
    return {name: value for name, value in values.items() if value is not None and (value != "" or name in ("prompt", "negative"))}


def _identifier(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(name, f"must be an id as text, as /submit returned it, not {str(value)[:40]!r}.")
    return value


class Pages(LeanBlocks):
    """Gradio's blocks, but a call with fewer values than parameters is one that leaves the last ones out.

    Gradio refuses it with an error it does not show: the caller of `POST /gradio_api/call/submit` with `{"data": ["a ball"]}` saw
    `{"error": null}`. What may not be left out is named by the endpoint itself.
    """

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        inputs.extend([None] * (len(block_fn.inputs) - len(inputs)))


def add_endpoints(studio: Any) -> None:
    """Registers the endpoints; call inside `gr.Blocks`."""

    def job_state(job_id: str) -> dict[str, Any]:
        return state_of(studio, job_id)

    def submit(
        prompt: Any = None,
        negative: Any = None,
        model: Any = None,
        seed: Any = None,
        frames: Any = None,
        width: Any = None,
        height: Any = None,
        steps: Any = None,
        guidance: Any = None,
        scheduler: Any = None,
        image: Any = None,
        video: Any = None,
        fit: Any = None,
        strength: Any = None,
        guidance_kind: Any = None,
        eta: Any = None,
        loras: Any = None,
        profile: Any = None,
        quality: Any = None,
        precision: Any = None,
        budget: Any = None,
        device: Any = None,
        cache: Any = None,
        cfg_gate: Any = None,
        parallel: Any = None,
        key_frames: Any = None,
        fps: Any = None,
        given: Any = None,
        review: Any = None,
        wish: Any = None,
        refiner: Any = None,
    ) -> str:
        """Queues one video and returns its job id. `prompt` alone is enough; what is None is the model's own. `image` and `video` are
        names of inputs that this studio has, never paths; `loras` a list of [name, weight]."""
        values = locals()
        return studio.submit(said({name: values[name] for name in REQUEST_FIELDS}), owner=OWNER).id

    def job(job_id: Any = None) -> dict:
        """State of a job: {id, kind, title, state, stage, step, steps, eta_seconds, clip, error}."""
        return job_state(_identifier("job_id", job_id))

    def cancel(job_id: Any = None) -> dict:
        """Asks a job to stop; answers like /job. A job that has ended stays as it is."""
        studio.cancel(_identifier("job_id", job_id), owner=OWNER)
        return job_state(job_id)

    endpoints: list[Callable[..., Any]] = [submit, job, cancel, _clips_endpoint(studio), _models_endpoint(studio), _loras_endpoint(studio),
                                           _interpolate_endpoint(studio), refine_endpoint(studio), *gallery_endpoints(studio),
                                           *_batch_endpoints(studio, job_state), *_key_frame_endpoints(studio, job_state)]
    for endpoint in endpoints:
        gr.api(guarded(endpoint), api_name=endpoint.__name__, concurrency_limit=8)


def _clips_endpoint(studio: Any) -> Callable[..., dict]:
    def clips(words: Any = None, page: Any = None) -> dict:
        """Finished clips, newest first, 24 a page; every one of `words` occurs in the prompt or the name."""
        found = studio.clips(checked_search(words, page), owner=OWNER)
        shown = [clip_json(clip) for clip in found.clips]
        return {"clips": shown, "page": found.page, "pages": found.pages, "total": found.total}

    return clips


def _models_endpoint(studio: Any) -> Callable[[], dict]:
    def models() -> dict:
        """All models: {name, state ('ready', 'absent', 'fetching', ...), task, width, height, frames, fps, size_bytes, progress, ...}."""
        return {"models": [card.to_json() for card in studio.hub.cards()]}

    return models


def _interpolate_endpoint(studio: Any) -> Callable[..., str]:
    def interpolate(clip: Any = None, fps: Any = None, slow: Any = None, method: Any = None, video: Any = None, then: Any = None,
                    between: Any = None) -> str:
        """Queues more frames for a clip (its id) or a `video` (the name of an input) and returns the job id. `fps` of the result,
        `slow` how many times slower, one of them at least. Or `then`: a second one, named as the first is, and `between` frames
        (7) come between the two. `method`: flow, which is motion interpolation and not generation, or generate. /job tells how it
        gets on."""
        wish = {"fps": fps, "slow": slow, "method": method or "flow", "between": between}
        if (clip is None) == (video is None):
            raise InvalidRequest("clip", "or video, one of them, says what gets more frames.")
        if video is not None:
            return studio.interpolations.submit_input(video, owner=OWNER, then="" if then is None else then, **wish).id
        second = None if then is None else _identifier("then", then)
        return studio.interpolations.submit(_identifier("clip", clip), owner=OWNER, then=second, **wish).id

    return interpolate


def _batch_endpoints(studio: Any, job_state: Callable[[str], dict[str, Any]]) -> tuple[Callable[..., dict], ...]:
    def submit_batch(requests: Any = None, idempotency_key: Any = None) -> dict:
        """Queues one video for each of a list of requests, all or none: {batch, jobs: [id, ...]}, in the order of the list."""
        each = [said(values) if isinstance(values, Mapping) else values for values in requests] if isinstance(requests, list) else requests
        jobs = studio.submit_batch(each, owner=OWNER, idempotency_key=idempotency_key)
        return {"batch": jobs[0].batch_id, "jobs": [job.id for job in jobs]}

    def batch(batch_id: Any = None) -> dict:
        """The jobs of a batch, each as /job answers."""
        jobs = studio.batch(_identifier("batch_id", batch_id), owner=OWNER)
        return {"batch": batch_id, "jobs": [job_state(job.id) for job in jobs]}

    def cancel_batch(batch_id: Any = None) -> dict:
        """Asks every job of a batch to stop that has not ended; answers like /batch."""
        studio.cancel_batch(_identifier("batch_id", batch_id), owner=OWNER)
        return batch(batch_id)

    return submit_batch, batch, cancel_batch


def _key_frame_endpoints(studio: Any, job_state: Callable[[str], dict[str, Any]]) -> tuple[Callable[..., dict], ...]:
    def key_frames(job_id: Any = None) -> dict:
        """Key frames of a job with review, once they are made: {frames: [{index, url, source ('made', 'again', 'given')}]}."""
        frames = studio.key_frames(_identifier("job_id", job_id), owner=OWNER)
        return {"frames": [{"index": f.index, "url": f"/media/keys/{job_id}/{f.index}.webp", "source": f.source} for f in frames]}

    def edit_key_frame(job_id: Any = None, index: Any = None, what: Any = None) -> dict:
        """One key frame made anew (`what`: a seed, or None for a drawn one) or replaced (`what`: an input). Answers like /job."""
        studio.edit_key_frame(_identifier("job_id", job_id), index, what, owner=OWNER)
        return job_state(job_id)

    def go_on(job_id: Any = None) -> dict:
        """The rounds of a job with review may begin. Answers like /job."""
        studio.go_on(_identifier("job_id", job_id), owner=OWNER)
        return job_state(job_id)

    return key_frames, edit_key_frame, go_on


def _loras_endpoint(studio: Any) -> Callable[[], dict]:
    def loras() -> dict:
        """All LoRAs: {name, file, rank, alpha, targets, trigger, fits: [models], ...}."""
        models = studio.models()
        return {"loras": [card.to_json() | {"fits": [spec.name for spec in models if card.fits(spec)]} for card in studio.loras.cards()]}

    return loras
