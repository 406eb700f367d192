"""Models from wherever they are to wherever they are wanted: native folders, transformers, the hub, audiocraft."""
