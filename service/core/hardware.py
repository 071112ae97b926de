"""What a VM runs on, as far as it is known before it is made."""

from typing import Final, NamedTuple


class Hardware(NamedTuple):
    """A region, and the GPUs of a flavor. None is not known; a `gpu_count` of 0 means none."""

    region: str | None
    gpu_model: str | None
    gpu_count: int | None


UNKNOWN: Final = Hardware(None, None, None)
