"""Problems small enough to see through."""
