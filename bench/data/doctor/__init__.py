"""The data doctor: what is wrong with a dataset on disk, and which of its known variants it is."""
