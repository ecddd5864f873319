"""How PostgreSQL is reached. This room knows none of our tables."""
