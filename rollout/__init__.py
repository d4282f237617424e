"""Who gets the new behaviour, and when it is taken back."""
