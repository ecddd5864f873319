"""When, by itself: every replica runs every daemon; bounded batches and `skip locked` make that safe."""
