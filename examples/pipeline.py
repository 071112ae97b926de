"""Rent VMs for a job, use them, and give them back whatever happens."""

import os

from service.client import Rollcall

client = Rollcall(os.environ["ROLLCALL_API_URL"], os.environ["ROLLCALL_API_TOKEN"])
fleet = client.submit(
    {
        "name": "nightly",
        "count": 2,
        "environment_name": "default-CANADA-1",
        "flavor_name": "n3-A100x1",
        "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
        "key_name": "example-key",
        "assign_floating_ip": True,
        "policy": {"lifetime": "2h"},  # Rollcall deletes them itself, should this machine die
    },
    idempotency_key=os.environ["RUN_ID"],  # a repeated run gets the same VMs, and no second set
)
try:
    client.wait(fleet, timeout=1800)
    for vm in client.vms(submission_id=fleet["submission_id"]):
        print(vm["ref"], vm["floating_ip"])  # ssh, train, …
finally:
    client.cancel_submission(fleet["submission_id"])  # deletes the VMs, and creates no more
