"""The jobs; `runner` runs them. A run of a job may be repeated at any moment without harm."""
