"""Runs the daemon against the simulator: the demo and the explorer. No part of the product imports it."""
