"""From words and melodies to what the language model attends to: one small class a kind of condition."""
