"""What belongs to an event loop: batches in flight and their threads."""
