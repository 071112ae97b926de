"""Rollcall: creates fleets of GPU VMs on Infrahub and keeps the record of their lives."""

__version__ = "0.1.0"
