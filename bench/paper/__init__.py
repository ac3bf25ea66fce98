"""Published numbers as data, and the tables of papers made again."""
