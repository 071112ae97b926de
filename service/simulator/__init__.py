"""A cloud that misbehaves when told to. It imports nothing of ours, so that it cannot share our mistakes."""
