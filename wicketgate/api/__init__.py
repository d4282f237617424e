"""The HTTP face: OpenAI routes, health, the admin application."""
