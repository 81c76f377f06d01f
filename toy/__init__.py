"""Problems small enough to see: each is a page of code that reads like the method's explanation."""
