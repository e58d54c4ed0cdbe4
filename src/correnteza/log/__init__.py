"""Logs: the contract (`base`), and its adapters over memory, SQLite and HTTP."""
