"""Use cases in short transactions, shared by the worker and the API. None is open across a provider call."""
