"""What a trained text-to-music model is worth: the measurements on its card."""
