"""The language model: codebook patterns, transformer, conditioning, and its training."""
