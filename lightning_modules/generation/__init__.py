"""From prompts to audio."""
