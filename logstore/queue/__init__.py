"""Durable queues in a Python program: topics, producers and consumers over a store. See the modules."""

__all__: list[str] = []
