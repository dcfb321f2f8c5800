"""Directories for the acceptance tests, made anew for each test."""

from helpers.made import at_open, directory, orders, transactions, written

__all__ = ["at_open", "directory", "orders", "transactions", "written"]
