"""The tokenizer: EnCodec (SEANet autoencoder with residual vector quantization), its losses and its training."""
