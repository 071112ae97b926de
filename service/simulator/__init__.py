"""A cloud that misbehaves when told to. It imports nothing of ours, so that it cannot share our mistakes.

A call comes in at server.py as a `Request`, passes the limit, the key and the misfortunes in cloud.py, is done by the
handler that endpoints.py names, and leaves as a `Reply` with its fate. fleet.py moves the VMs along the tables of
lifecycle.py; what they tell goes to outbox.py and from there to the server, which posts it. Nothing but server.py
knows sockets and clocks, and nothing but dice.py draws luck, so that a run can be repeated from its seed.

Settings are in config.py, misbehaviour in faults.py, both readable from JSON (loading.py):

    python -m service.simulator --port 9090 --speed 60 --config '{
        "seed": 7,
        "faults": {
            "create": {"lost": [2], "error_after": 0.1},
            "callbacks": {"lost": 0.05, "repeated": 0.1, "reordered": 0.1},
            "outage": {"probability": 1, "since": 300, "until": 360}}}'

Here the answer of the second create is lost, a tenth of the others are a 5xx although the VMs were made, and at
simulated second 300 the provider goes away for a minute. The truth is under /_sim/ (private.py), which is ours, as is
PUT /v1/_sim/virtual-machines/{id}/contract: the provider has nothing of the kind.
"""
