"""Recordings from the lab, and what they must replay to."""
