"""The explorer: daemon, cloud and faults in one process on a virtual clock, and a checker of what came of it.

It is beside the command that starts it, since nothing else may know both the simulator and the service.
"""
