"""The `rollcall` command, for people. It speaks to a running daemon over its HTTP API, or starts one."""
