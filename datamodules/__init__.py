"""From tracks on disk to batches: manifests, audio reading, sample order, crops, tokens, features."""
