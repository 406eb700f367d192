"""The paper's tables, repeated in the small: which rows, how they are planned and run, and what comes of them."""
