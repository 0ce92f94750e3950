"""One video on several devices: the same pixels, sooner.

    degrees     pure: cfg x ulysses x ring, what is legal, who holds which tokens, heads and rows
    cost        pure: arithmetic, bytes on the wire, and the speed-up they foretell
    watch       pure: when a rank counts as dead or hung
    mesh        the ranks' process groups; every collective, with the bytes it sent
    attend      attention over tokens that lie on several ranks: Ulysses, ring, both
    spread      a model whose `predict`, `encode_frames` and `decode` run on all ranks
    bands       layers of the VAE over rows that lie on several ranks     tiles   tiles of a decode, dealt out in turn
    rank        one process a device, kept warm between jobs        launch      torch's elastic launcher around it
    fleet       owns these processes                                drive       one job on a fleet, and again after a rank died

`app/cli_torchrun.py` is the same under `torchrun`, on one computer or several.
Importing this package, `degrees`, `cost` or `watch` imports no torch. docs/parallel.md has the picture.
"""
