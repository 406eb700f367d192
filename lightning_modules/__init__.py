"""From batches to audio: the codec, the language model, generation, and what trains and stores them."""
