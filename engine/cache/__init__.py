"""Doing less in a denoising step: the work of a step is replaced by what the steps before it gave. All of it is lossy.

    first-block   the first block is run; where it changed little since the last full step, the others are skipped
    pab           attention is taken from the step before, every other step, in the middle of the noise
    magcache      all blocks are skipped while the calibrated sizes of their change add up to little
    taylorseer    all blocks are skipped in a fixed rhythm, their change is extrapolated
    cfg gate      late steps run without the negative prompt; the last difference that guidance saw is used again

Each file of this package holds one of them: a frozen value that decides (pure numbers, no torch), and what acts on it.
`Shortcut` is one run's state. It is made when sampling starts and dropped when it ends, so nothing reaches the next job.
What each costs in quality was measured (`bench.caches`), see `engine.cache.measured`.
"""

from __future__ import annotations
