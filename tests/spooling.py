"""A process to be killed: it spools callbacks one group after another, and says of each group when it is on the disk."""

import sys
from pathlib import Path

from stored_events import event

from service.receiver.segments import Segments

GROUP = 7


def main() -> None:
    segments = Segments(Path(sys.argv[1]), most_bytes=2**30, segment_bytes=20_000)
    segments.open()
    number = 0
    while True:
        segments.append([event(number + one, body=b"x" * 200 + b"%d" % (number + one)) for one in range(GROUP)])
        number += GROUP
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
