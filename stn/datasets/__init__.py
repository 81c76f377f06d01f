"""Text corpora and image sets: their loading, checks and built-in stand-ins."""
