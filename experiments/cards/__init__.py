"""The card of an exported model: README.md and a picture of its training, of what run and results record alone."""
