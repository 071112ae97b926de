"""Takes the record along and proves it. It changes nothing that a job decides."""
