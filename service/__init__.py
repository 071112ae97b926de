"""Rollcall creates fleets of GPU VMs on Infrahub and records what happens to them."""

__version__ = "0.1.0"
