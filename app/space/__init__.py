"""What is different on a Hugging Face Space: who people are, where clips survive a restart, and a GPU that is lent by the call."""
