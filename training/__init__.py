"""Training: datasets, LoRA training, and how the embedded pocket model was made."""
