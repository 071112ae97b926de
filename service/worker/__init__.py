"""One pass of one duty at a time; `loop` runs them. A pass may be repeated at any moment without harm."""
