"""A simulated Infrahub with configurable faults. It imports nothing from Rollcall, so it cannot share its bugs.

server.py turns an HTTP request into an `HttpRequest`. cloud.py checks the rate limit and the API key, injects faults and
calls the handler from endpoints.py, which returns an `HttpReply`. fleet.py moves VMs through the operations listed in
lifecycle.py and passes their callbacks to callback_sender.py; the server posts them. Only server.py uses sockets and the
clock, and only rng.py creates random numbers, so a run can be repeated from its seed.

Settings are in config.py, faults in faults.py. Both can be given as JSON (loading.py):

    python -m service.simulator --port 9090 --speed 60 --config '{
        "seed": 7,
        "faults": {
            "create": {"lost": [2], "error_after": 0.1},
            "callbacks": {"lost": 0.05, "repeated": 0.1, "reordered": 0.1},
            "outage": {"probability": 1, "since": 300, "until": 360}}}'

This loses the answer of the second create, answers a tenth of the other creates with a 5xx although their VMs exist, and
takes the provider offline for a minute at simulated second 300.

The ground truth is under /_sim/ (private.py). That prefix, and PUT /v1/_sim/virtual-machines/{id}/contract, exist only in
the simulator.
"""
