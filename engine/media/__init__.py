"""Pictures and videos of the user: what they are, and their pixels in the size a model wants. Import the files."""
