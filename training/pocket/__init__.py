"""How the embedded pocket model was made: the world it knows, its captions and the recipe."""
