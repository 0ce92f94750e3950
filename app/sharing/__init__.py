"""One studio for several people: who they are (`users`, `sessions`, `access`), what they may do and how much (`owned`, `quotas`)."""
