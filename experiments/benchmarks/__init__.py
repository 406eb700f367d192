"""What `mgl bench` measures."""
