"""The operator's HTTP API: bearer tokens always, JSON both ways. It decides nothing about VMs."""
