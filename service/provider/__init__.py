"""Speaks to Infrahub: the only room with outgoing HTTP. It knows nothing of the record, and decides nothing."""
