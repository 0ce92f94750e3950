"""Models from the hub: what is known, what a repository must hold, and downloads that survive whatever happens.

    Keeper (thread of the server) --starts--> `python -m app.hub.fetch` --writes--> models_dir/.downloads/owner--name/
    pages, command line --read--> the same small files      complete, hashed, accepted by read_spec --rename--> models_dir/owner--name
"""
