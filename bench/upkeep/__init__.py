"""Looking after results folders: what is damaged, what is superfluous, and how records get from one to another."""
