"""What the command-line scripts share; nothing else in the library reads command lines, prints or exits."""
