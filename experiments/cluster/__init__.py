"""Runs on clusters: what a site is like, jobs of SLURM, and torchrun."""
