"""Whom we trust: all that a security reviewer must read. Pure but for key files: no database, no sockets."""
