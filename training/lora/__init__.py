"""Training LoRAs: from a set of encoded clips to a file that Create uses.

    TrainConfig + CachedSet --loop--> events, checkpoints, previews --export--> one .safetensors

    config     every setting, checked; which may change on resume        presets, forecast   pure: what it will cost
    streams    randomness as a function of (seed, stream, position)      order               which clips a step sees
    objective  v-prediction in float32                                   adapter             the LoRA's weights, in float32
    optimizers, schedules                                                evaluate            held-out loss, same noise for ever
    checkpoint atomic, checksummed, the newest sound one is taken        preview             clips by Create's own path
    rundir     the files of one run and what they say                    export              every format, alpha exactly once

Everything but `loop` and what it calls works without torch.
"""
