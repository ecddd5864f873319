"""Who asks: HTTP ends here. A route parses, calls one stage or read, and shapes the answer."""
