"""Callbacks that tie training to the rest: the model at its end, what one sees of it meanwhile, and samples."""
