"""What a process is made of: clock, health, metrics, logs, rate limit, and the settings in use."""
