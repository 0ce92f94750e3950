"""One file a model family, plus what all of them share: the catalogue, weight files, the cache. Import the files."""
