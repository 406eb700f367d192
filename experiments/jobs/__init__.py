"""Generation jobs: many prompts through one model into a folder that evaluation reads."""

from experiments.jobs.job import generate_clips
from experiments.jobs.requests import Options

__all__ = ["Options", "generate_clips"]
