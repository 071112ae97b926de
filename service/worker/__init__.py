"""The background jobs, one module for each. A run of a job may be repeated at any time without harm."""
