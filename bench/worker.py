"""The duty `apply` as the daemon runs it, until the queue is empty: events, seconds, CPU seconds, resident memory.

python bench/worker.py DATABASE_URL      prints one line of JSON
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from ground import resident_mb
from servers import SECRET

from service.config import Settings
from service.runtime.runtime import open_runtime
from service.worker import apply


async def drain(url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), callback_secrets=SECRET, database_url=url)
        runtime = open_runtime(settings, url)
        begun, busy, events = time.perf_counter(), time.process_time(), 0
        while done := await apply.run_once(runtime):
            events += done
        seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
        await runtime.close()
    return {"events": events, "seconds": seconds, "cpu_seconds": cpu, "resident_mb": resident_mb(os.getpid())}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(drain(sys.argv[1]))))
