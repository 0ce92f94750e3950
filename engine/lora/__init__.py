"""LoRA files: low-rank changes to a transformer's layers, read and judged without torch.

    W x   becomes   W x + weight * (alpha / rank) * B (A x)         https://arxiv.org/abs/2106.09685

    names    tensor names of the formats in use -> layers of a CogVideoX transformer
    file     one file -> `Lora`, or why not
    stack    the LoRAs of a request against one checkpoint

Applied by `engine.models.lora`.
"""

from engine.lora.file import Lora, LoraLayer, read_lora
from engine.lora.stack import check_fit, lora_bytes, lora_file, model_layers, read_stack

__all__ = ["Lora", "LoraLayer", "check_fit", "lora_bytes", "lora_file", "model_layers", "read_lora", "read_stack"]
