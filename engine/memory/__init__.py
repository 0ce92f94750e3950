"""How much memory and arithmetic a clip takes, from shapes alone. Pure formulas, no torch.

    ModelSpec + Shape + Placement --forecast--> Forecast        `engine.memory.peak`

    shapes        sizes, tokens, arithmetic by stage
    placement     the choices: precision and place of each component, one or two passes, chunks, tiles
    weights       bytes of weights held, and moved in a step
    transformer   one step's activations        text        the text encoder's        decoder     the VAE decoder's
    peak          the highest sum, on the device and in the computer's own memory

`bench/meta_memory.py` runs diffusers' and our own modules at true sizes on torch's meta device, counts every live byte and
prints it beside these formulas; `tests/engine/test_memory.py` holds them to 10 %.
"""

from engine.memory.peak import Forecast, forecast
from engine.memory.placement import Home, Placement, everywhere
from engine.memory.shapes import Shape, latent_frames, stage_work, tokens

__all__ = ["Forecast", "Home", "Placement", "Shape", "everywhere", "forecast", "latent_frames", "stage_work", "tokens"]
