"""How fast a method trains here, where the time goes, and how near that is to what the encoder alone allows."""
