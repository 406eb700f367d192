"""Codecs judged by what they make of whole clips: one, or several side by side."""
