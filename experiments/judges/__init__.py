"""What the embedded judge is worth: how well it hears and reads, and whether metrics made with it behave."""
