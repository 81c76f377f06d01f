"""What the command-line scripts share: reading command lines, printing, exiting."""
