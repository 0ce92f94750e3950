"""Data to train on: taking sets of clips in, looking at them, changing their captions, encoding them once.

    folder, table, zip --sources--> Found --taking--> Clip | Rejection --> Dataset (a manifest; the user's files stay as they are)
    Dataset + ModelSpec --buckets--> what lands where --cache--> CachedSet, which a trainer reads

    records   the frozen values, and their JSON          sources, tables, archive, parquet   what layouts are understood
    taking    one found file looked at                   looks, cuts   what can be seen in a clip
    checks    what is wrong with a set                   edits         a Dataset with something changed
    buckets   clips to (frames, height, width)           store, encode, cache   moments and texts by what is in them
    example   a small set of a thing the embedded model never saw

Everything but `encode` and `cache` works without torch.
"""
