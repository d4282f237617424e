"""What was promised, and is it kept."""
