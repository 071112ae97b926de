"""The dashboard: pages for people on the operator's listener, rendered on the server from what the API answers."""
