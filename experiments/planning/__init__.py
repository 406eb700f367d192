"""What a language-model run costs, counted before anything starts, and whether all that it needs is there."""
