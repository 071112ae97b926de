"""Tells people and programs what happened: notices become messages, and messages are delivered to targets."""
