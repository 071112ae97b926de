"""The client of the operator API. Only the standard library, so that commands start at once."""
