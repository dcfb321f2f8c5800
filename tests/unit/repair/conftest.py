"""Directories for the tests of repair, made anew for each test."""

from helpers.made import alone, directory, orders, transactions, written

__all__ = ["alone", "directory", "orders", "transactions", "written"]
