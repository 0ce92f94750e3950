"""Projects, jobs and clips in SQLite: dataclasses in, dataclasses out. The only room that imports SQLAlchemy."""
