"""CogVideoX's two schedulers as steps that the loop can take, save and go on from."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class _Steps:
    """A scheduler of diffusers, set to `steps` steps, of which only the last `run` are run."""

    fresh_noise = False

    def __init__(self, scheduler: Any, steps: int, run: int, device: torch.device) -> None:
        scheduler.set_timesteps(steps, device=device)
        self.scheduler = scheduler
        # For some counts (61, 103, 121, 122) diffusers' rounding gives one more, below zero.
        self.timesteps: Tensor = scheduler.timesteps[:steps][steps - run:]

    def signal(self, index: int) -> tuple[float, float]:
        """(a, s) such that the clean latents of step `index` are  a x_t - s v,  v: the model's prediction.

        For v-prediction a^2 = alpha, s^2 = 1 - alpha. For models that predict something else (0, -1): the prediction itself.
        """
        if self.scheduler.config.prediction_type != "v_prediction":
            return 0.0, -1.0
        alpha = float(self.scheduler.alphas_cumprod[int(self.timesteps[index])])
        return alpha**0.5, (1 - alpha) ** 0.5

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """`latents` with as much noise as there is before the first step that is run."""
        table = self.scheduler.alphas_cumprod
        noisy = self.scheduler.add_noise(latents, noise, self.timesteps[:1])
        self.scheduler.alphas_cumprod = table  # `add_noise` moves it to the device; a resumed run would not
        return noisy


class DpmSteps(_Steps):
    """DPM-Solver++ (SDE, second order) as in the CogVideoX release: draws noise twice a step."""

    scheduler: CogVideoXDPMScheduler
    fresh_noise = True

    def step(self, velocity: Tensor, index: int, latents: Tensor, clean_before: Tensor | None,
             generator: torch.Generator) -> tuple[Tensor, Tensor]:
        back = self.timesteps[index - 1] if index > 0 else None
        return self.scheduler.step(velocity, clean_before, self.timesteps[index], back, latents, generator=generator,
                                   return_dict=False)


class DdimSteps(_Steps):
    """DDIM (https://arxiv.org/abs/2010.02502). With `eta` 0 it draws no noise after the start; needs no history.

    diffusers' CogVideoX class takes `eta` and ignores it, so a step with noise is made here, equations 12 and 16:
        x_(t-1) = sqrt(a') x_0 + sqrt(1 - a' - s^2) e + s z,    s = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')
    """

    scheduler: CogVideoXDDIMScheduler

    def __init__(self, scheduler: CogVideoXDDIMScheduler, steps: int, run: int, device: torch.device, eta: float = 0.0) -> None:
        super().__init__(scheduler, steps, run, device)
        self.eta = eta
        self.fresh_noise = eta > 0

    def step(self, velocity: Tensor, index: int, latents: Tensor, clean_before: Tensor | None,
             generator: torch.Generator) -> tuple[Tensor, Tensor]:
        time = self.timesteps[index]
        stepped, clean = self.scheduler.step(velocity, time, latents, eta=0.0, generator=generator, return_dict=False)
        if not self.eta:
            return stepped, clean
        now, after = self._signal(int(time))
        spread = self.eta * ((1 - after) / (1 - now)) ** 0.5 * (1 - now / after) ** 0.5
        keep = ((1 - after - spread**2) / (1 - now)).clamp(min=0) ** 0.5  # of the latents; below 0 only by rounding
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        return keep * latents + (after**0.5 - now**0.5 * keep) * clean + spread * noise, clean

    def _signal(self, time: int) -> tuple[Tensor, Tensor]:
        """Share of the signal (`alphas_cumprod`) at `time` and one step later, as the scheduler counts."""
        later = time - self.scheduler.config.num_train_timesteps // self.scheduler.num_inference_steps
        table = self.scheduler.alphas_cumprod
        return table[time], table[later] if later >= 0 else self.scheduler.final_alpha_cumprod
