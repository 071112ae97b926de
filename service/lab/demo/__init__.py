"""The demo: a fleet against the simulator, compared with the ground truth at the end."""
