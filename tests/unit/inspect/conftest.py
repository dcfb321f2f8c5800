"""Directories for the tests of what reads them, made anew for each test."""

from helpers.made import alone, directory, failing_reads, orders, transactions, written

__all__ = ["alone", "directory", "failing_reads", "orders", "transactions", "written"]
