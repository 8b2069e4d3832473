"""What comes out, with the identity of what it describes, and files of it."""
