"""What happens to a request between arrival and first token."""
