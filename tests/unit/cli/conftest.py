"""Directories for the tests of the commands, made anew for each test."""

from helpers.made import alone, directory, failing_reads, orders, transactions, written

__all__ = ["alone", "directory", "failing_reads", "orders", "transactions", "written"]
