"""Files: writing, checking, publishing, metadata. Import the files."""
