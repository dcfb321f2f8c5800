"""Replicas on several brokers: where they are placed, and how they follow each other. See the modules."""

__all__: list[str] = []
