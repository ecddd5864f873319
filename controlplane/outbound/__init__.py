"""Whom we call: the one HTTP client that leaves the house. It knows no database, so it cannot hold a connection."""
