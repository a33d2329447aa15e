"""What another policy or size would bring: recorded requests, replayed on the engines."""
